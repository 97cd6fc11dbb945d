-- The end of which a session's app was told that it is near: if it moves, it is told again.
alter table sessions add column warned_end bigint;
