//! A private PostgreSQL for the tests of one process, from the locally installed server binaries.
//! It ends with the process, however that ends: it is tied to a pipe that closes then.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// PostgreSQL needs a moment to write its first files.
const START_MAX: Duration = Duration::from_mins(1);

/// Runs the server until standard input closes, then stops it at once and tidies up.
const KEEPER: &str = "\"$1/postgres\" -D \"$2/data\" -k \"$2\" -c listen_addresses= -c fsync=off \
    -c max_connections=200 -c full_page_writes=off >\"$2/log\" 2>&1 & pid=$!; \
    cat >/dev/null; kill -INT $pid; wait $pid; rm -rf \"$2\"";

struct Server {
    dir: PathBuf,
    bin: PathBuf,
    owner: Option<(u32, u32)>,
    _keeper: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The URL of a new, empty database.
pub fn database() -> String {
    let server = SERVER.get_or_init(start_server);
    let dir = server.dir.display().to_string().replace('/', "%2F");
    format!("postgres://reauth@{dir}/{}", server.create("template0"))
}

/// The URL of a new database that is as this one is now. Nobody is connected to it meanwhile.
#[allow(dead_code, reason = "not every test program that has this module copies one")]
pub fn copy_of(url: &str) -> String {
    let (start, template) = url.rsplit_once('/').expect("a database");
    format!("{start}/{}", SERVER.get_or_init(start_server).create(template))
}

impl Server {
    /// The name of a new database.
    fn create(&self, template: &str) -> String {
        let name = format!("story_{}", DATABASES.fetch_add(1, Ordering::SeqCst));
        let mut create = self.command("psql");
        create.arg("-h").arg(&self.dir).args(["-U", "reauth", "-d", "postgres", "-q", "-c"]);
        create.arg(format!("create database {name} template {template}"));
        let done = create.output().expect("psql runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        name
    }

    fn command(&self, program: &str) -> Command {
        let own = self.bin.join(program);
        let mut command = Command::new(if own.exists() { own } else { program.into() });
        as_owner(&mut command, self.owner);
        command
    }
}

fn as_owner(command: &mut Command, owner: Option<(u32, u32)>) {
    command.current_dir("/");
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
}

fn start_server() -> Server {
    let bin = binaries();
    let owner = owner();
    let dir = tempfile::Builder::new().prefix("reauth-postgres-").tempdir_in("/tmp");
    let dir = dir.expect("a directory for PostgreSQL").keep();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).expect("chmod");
    if let Some((uid, gid)) = owner {
        chown(&dir, Some(uid), Some(gid)).expect("chown");
    }
    let mut init = Command::new(bin.join("initdb"));
    as_owner(&mut init, owner);
    init.args(["-U", "reauth", "--auth=trust", "--no-sync", "--locale=C", "-E", "UTF8", "-D"]);
    let done = init.arg(dir.join("data")).output().expect("initdb runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut keeper = Command::new("sh");
    as_owner(&mut keeper, owner);
    keeper.args(["-c", KEEPER, "sh"]).arg(&bin).arg(&dir);
    let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let keeper = keeper.process_group(0).spawn().expect("sh runs");
    let server = Server { dir, bin, owner, _keeper: keeper };
    await_ready(&server);
    server
}

fn await_ready(server: &Server) {
    let began = Instant::now(); // clock: measures
    loop {
        let mut ask = server.command("pg_isready");
        let done = ask.args(["-q", "-h"]).arg(&server.dir).status().expect("pg_isready runs");
        if done.success() {
            return;
        }
        let log = || std::fs::read_to_string(server.dir.join("log")).unwrap_or_default();
        assert!(began.elapsed() < START_MAX, "PostgreSQL does not start: {}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The newest installed server.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    found.sort();
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    found.splice(0..0, std::env::split_paths(&in_path));
    let has_server = |dir: &&PathBuf| dir.join("initdb").exists() && dir.join("postgres").exists();
    let found = found.iter().rev().find(has_server);
    found.expect("PostgreSQL's server is installed: `cargo xtask ci` does it").clone()
}

/// PostgreSQL refuses to run as root: then it runs as its own user, or as nobody.
fn owner() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string(Path::new("/etc/passwd")).expect("/etc/passwd");
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("a user that is not root"))
}
