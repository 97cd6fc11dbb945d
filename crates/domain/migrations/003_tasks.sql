-- Tasks of several files, with more triggers; runs with a lease, tries, a queue and a parent.

alter table tasks add column files text not null default '{}';
alter table tasks add column options text not null default '{}';
-- Up to which entry the ledger was looked at; null for a task that no entry starts.
alter table tasks add column looked_seq bigint;
-- Why the schedule stands still.
alter table tasks add column stopped text;
create index tasks_looked on tasks (looked_seq);

alter table runs add column tries_left bigint not null default 0;
alter table runs add column queue text;
alter table runs add column depth bigint not null default 0;
alter table runs add column rehearsed bigint not null default 0;
alter table runs add column changes text;
-- Until when the server that carries it out has said that it lives.
alter table runs add column lease_until bigint;
alter table runs add column secret_hash bytea;
create index runs_finished on runs (finished_at);
create index runs_logs on runs (finished_at) where log is not null;
