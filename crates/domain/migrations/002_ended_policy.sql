-- By which policy a session ended, as long as that is why it must sign in again.
alter table sessions add column ended_policy text;

-- Authentication tokens are forgotten in the order of their ends.
create index enrolments_expires on enrolments (expires_at);
