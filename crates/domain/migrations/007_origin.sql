-- Where the server left the ledger's end last (null: nowhere yet), and whether this is a backup
-- that nobody has restored: by these a copy that is started elsewhere is noticed.
alter table store_head add column anchor text;
alter table store_head add column is_backup bigint not null default 0;
