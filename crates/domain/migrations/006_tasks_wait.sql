-- A schedule that finds no room for a run is looked at again then, and keeps its moment.
alter table tasks add column wait_until bigint;
-- Whether somebody waits for the run: if it gives no answer, they are told, and nobody else need look.
alter table runs add column awaited bigint not null default 0;
