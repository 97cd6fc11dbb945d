-- One text for SQLite and PostgreSQL. Moments and spans are microseconds. Ids are text.

-- One row: the end of the ledger, the clock's floor, the cut-off for everyone, the restore fence.
create table store_head (
    id bigint primary key check (id = 1),
    seq bigint not null,
    hash bytea not null,
    at bigint not null,
    floor_at bigint not null,
    not_before bigint not null,
    fence_at bigint not null
);

create table ledger (
    seq bigint primary key,
    at bigint not null,
    app_id text,
    user_id text,
    kind text not null,
    body text not null,
    hash bytea not null
);
create index ledger_app on ledger (app_id, seq);
create index ledger_user on ledger (user_id, seq);
-- What is about an app as a whole, or about everything, among all that is about users.
create index ledger_wide on ledger (kind, app_id) where user_id is null;

create table apps (
    id text primary key,
    name text not null,
    created_at bigint not null,
    settings text not null,
    not_before bigint not null
);
create index apps_created on apps (created_at, id);

-- The limits of an app over time: each holds from its moment to the next one's.
create table app_limits (
    app_id text not null references apps (id),
    from_at bigint not null,
    max_age bigint,
    max_idle bigint,
    primary key (app_id, from_at)
);

-- Each version of a policy, and the time during which it holds.
create table policies (
    app_id text not null references apps (id),
    name text not null,
    from_at bigint not null,
    until_at bigint,
    body text not null,
    primary key (app_id, name, from_at)
);

-- Those by a filter, until the sweep has written their ends.
create table revocations (
    app_id text not null references apps (id),
    set_at bigint not null,
    body text not null,
    primary key (app_id, set_at)
);

create table users (
    id text primary key,
    app_id text not null references apps (id),
    created_at bigint not null,
    updated_at bigint not null,
    locked_at bigint,
    deleted_at bigint,
    not_before bigint not null,
    not_after bigint,
    not_after_set_at bigint,
    attributes text not null
);
create index users_created on users (app_id, created_at, id);

-- The attributes again, one a row, to filter and sort by.
create table user_attributes (
    user_id text not null references users (id),
    name text not null,
    text_value text,
    number_value double precision,
    primary key (user_id, name)
);
create index user_attributes_text on user_attributes (name, text_value);

create table user_groups (
    app_id text not null references apps (id),
    name text not null,
    created_at bigint not null,
    not_before bigint not null,
    primary key (app_id, name)
);

create table group_members (
    app_id text not null,
    name text not null,
    user_id text not null references users (id),
    joined_at bigint not null,
    primary key (app_id, name, user_id),
    foreign key (app_id, name) references user_groups (app_id, name)
);
create index group_members_user on group_members (user_id);

create table sessions (
    id text primary key,
    user_id text not null references users (id),
    device_id text not null,
    state text not null,
    secret_hash text not null,
    traits text not null,
    created_at bigint not null,
    authenticated_at bigint not null,
    connected_at bigint not null,
    ended_at bigint,
    ended_by text,
    signed_out_at bigint,
    label text,
    container text,
    runtime text,
    -- From where it signed in last.
    address text,
    synced_at bigint,
    warned_at bigint,
    unique (user_id, device_id)
);
create index sessions_ended on sessions (ended_at);
create index sessions_device on sessions (device_id);

create table enrolments (
    hash bytea primary key,
    user_id text not null references users (id),
    created_at bigint not null,
    expires_at bigint not null,
    traits text not null,
    ended_at bigint,
    ended_by text
);
create index enrolments_user on enrolments (user_id);

create table tokens (
    id text primary key,
    app_id text references apps (id),
    name text not null,
    scopes text not null,
    hash bytea not null,
    created_at bigint not null,
    expires_at bigint,
    used_at bigint,
    revoked_at bigint
);
create index tokens_app on tokens (app_id, created_at, id);

create table tasks (
    app_id text not null references apps (id),
    name text not null,
    file text not null,
    source text not null,
    javascript text not null,
    scopes text not null,
    cron text,
    zone text,
    params text not null,
    env text not null,
    single_instance bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    next_at bigint,
    primary key (app_id, name)
);
create index tasks_next on tasks (next_at);

create table runs (
    id text primary key,
    app_id text not null references apps (id),
    task text not null,
    trigger text not null,
    state text not null,
    attempt bigint not null,
    params text not null,
    due_at bigint not null,
    started_at bigint,
    finished_at bigint,
    result text,
    error_kind text,
    error text,
    log text
);
create index runs_state on runs (state, due_at);
create index runs_task on runs (app_id, task, due_at);
