-- What the token of a run that is going may do, and until when, as its ledger entry says it: the
-- task may be another by now.
alter table runs add column secret_scopes text;
alter table runs add column secret_expires_at bigint;
