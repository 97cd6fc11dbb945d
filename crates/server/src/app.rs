//! The running server: its parts, its connections, its end. What it answers is in `api`, what it
//! does by itself in `workers`.

use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::request::Parts as Head;
use axum::http::{HeaderValue, Request, Response, header};
use axum::response::IntoResponse as _;
use futures_util::FutureExt as _;
use futures_util::future::Either;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use reauth_domain::{AppId, Clock, Db, Error, tasks};
use reauth_sandbox::Sandbox;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tower::ServiceExt as _;
use tracing::Instrument as _;

use crate::api;
use crate::api::answer::{Answer, Kind};
use crate::api::policies::revocations::Previews;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::rate::Rate;
use crate::silence::{Heard, Silence};
use crate::simulation::Rehearsed;
use crate::workers;
use crate::workers::going::Going;
use crate::workers::places::{Place, Places};
use crate::workers::reach::{FETCH_TIMEOUT, OWN_TIMEOUT, Resolver};

/// The longest request: a run that is waited for, and a little.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(75);
/// The longest body of a request to a web task, and of a wanted run's params (contract, section 4).
const TASK_BODY_BYTES_MAX: usize = 5 << 20;
/// JSON around the params of a run: what is too long is still to be read, to say so.
const RUN_BODY_BYTES_MAX: usize = TASK_BODY_BYTES_MAX + (1 << 20);
/// All bodies together that may be longer than most, and are not answered yet; and those of one
/// app. Requests of strangers to web tasks and of who has a token do not wait for each other.
const BODY_ROOM_MEBIBYTES: (usize, usize) = (64, 24);
/// So long a request waits for that room.
const ROOM_WAIT: Duration = Duration::from_secs(5);
/// Web tasks mostly wait: more of them than other runs may go at once.
const WEB_TIMES: usize = 4;
/// So many runs that another run waits for, for each that goes by itself.
const CALL_TIMES: usize = 2;
/// How long a peer of a script may take to accept a connection, with its name's resolution.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The head and what is read ahead of a body.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// The parts that every request and every worker stands on. Clones are the same server.
#[derive(Clone)]
pub struct App {
    parts: Arc<Parts>,
}

/// See [`App`].
pub struct Parts {
    /// The store with its Live view.
    pub db: Db,
    /// The configuration.
    pub config: Config,
    /// Where scripts run.
    pub sandbox: Sandbox,
    /// The client for the scripts' requests to our own API.
    pub client: reqwest::Client,
    /// The client for the scripts' requests to the world: names lead to checked addresses only.
    pub(crate) egress: reqwest::Client,
    /// What is counted.
    pub metrics: Metrics,
    /// Where this server listens.
    pub address: SocketAddr,
    /// Wakes the worker that queues what is due.
    pub schedule_wake: Notify,
    /// Woken when someone wants the sweep to look now.
    pub sweep_wake: Notify,
    /// Sets of sessions that were looked at before they are revoked.
    pub(crate) previews: Previews,
    /// Wakes the worker that carries out runs.
    pub run_wake: Notify,
    /// Wakes the worker that gives signs of life for runs: for those who move the clock.
    pub lease_wake: Notify,
    /// Tells those who wait for a run that one has ended.
    pub run_ended: watch::Sender<()>,
    /// The runs that are being carried out here.
    pub(crate) going: Arc<Going>,
    /// How many requests to web tasks are answered a minute.
    pub(crate) web_rate: Rate,
    /// Room for bodies that may be longer than most, in MiB.
    web_room: Places,
    run_room: Places,
    /// How many web tasks answer at once.
    pub(crate) web_places: Places,
    /// How many runs are carried out at once for other runs that wait for them.
    pub(crate) call_places: Places,
    /// Where what tasks change is kept instead of being done: see `simulation`.
    pub(crate) rehearsal: Option<Rehearsed>,
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl Parts {
    /// The URL under which others reach this server.
    pub fn public_url(&self) -> String {
        self.config.public_url.clone().unwrap_or_else(|| self.local_url())
    }

    /// The URL under which this machine reaches this server.
    pub fn local_url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        format!("http://{address}")
    }
}

/// Which program serves as the child that a script runs in, and with which arguments.
#[derive(Clone, Debug)]
pub struct Child {
    /// The program; normally this very one.
    pub program: PathBuf,
    /// The arguments that make it call [`crate::sandbox_child`].
    pub args: Vec<String>,
}

/// A server that accepts connections.
pub struct Server {
    app: App,
    stop: watch::Sender<bool>,
    done: JoinSet<()>,
}

impl Server {
    /// Opens the store and begins to listen. The error is one line that says what to change.
    pub async fn start(config: Config, clock: Clock, child: Child) -> Result<Self, String> {
        let (app, listener) = open(config, clock, child, None).await?;
        let mut done = JoinSet::new();
        let (stop, stopped) = watch::channel(false);
        workers::start(&app, &stopped, &mut done).await?;
        done.spawn(accept(app.clone(), listener, stopped));
        Ok(Self { app, stop, done })
    }

    /// As `start`, but nothing happens by itself: see [`Server::settle`]. For those whose clock
    /// stands still.
    pub async fn start_still(config: Config, clock: Clock, child: Child) -> Result<Self, String> {
        Self::still(config, clock, child, None).await
    }

    /// Without workers; what tasks change may be rehearsed only.
    pub(crate) async fn still(
        config: Config,
        clock: Clock,
        child: Child,
        rehearsal: Option<Rehearsed>,
    ) -> Result<Self, String> {
        let (app, listener) = open(config, clock, child, rehearsal).await?;
        // What was going when the copy was made is not going here: before anybody is answered.
        workers::run::recover(&app).await.map_err(|error| error.to_string())?;
        let (mut done, (stop, stopped)) = (JoinSet::new(), watch::channel(false));
        done.spawn(accept(app.clone(), listener, stopped));
        Ok(Self { app, stop, done })
    }

    /// Does all that is due by now, as the workers would: writes ends down, queues runs and carries
    /// them out, until nothing is left to do.
    pub async fn settle(&self) -> Result<(), String> {
        workers::settle(&self.app).await.map_err(|error| error.to_string())
    }

    /// Carries out the runs that wait and may begin now, as the workers would, and what they queue.
    pub async fn run_queued(&self) -> Result<(), String> {
        let done = workers::run::carry_out_all(&self.app).await;
        done.map(|_| ()).map_err(|error| error.to_string())
    }

    /// The parts, for those who run a server in their own process.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// The URL under which this machine reaches it.
    pub fn url(&self) -> String {
        self.app.local_url()
    }

    /// Stops accepting, lets open requests end, writes down what is in memory only.
    pub async fn stop(mut self) {
        // A send fails only if every part has ended already.
        let _ = self.stop.send(true);
        while self.done.join_next().await.is_some() {}
        workers::flush(&self.app).await;
    }
}

/// Opens the store and takes the address.
async fn open(
    config: Config,
    clock: Clock,
    child: Child,
    rehearsal: Option<Rehearsed>,
) -> Result<(App, TcpListener), String> {
    config.check()?;
    let db = Db::open(config.place(), clock).await.map_err(|error| error.to_string())?;
    let listen = config.listen;
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        format!("cannot listen on {listen}: {error}; choose another address with --listen")
    })?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let (all, per_app) = (config.tasks.concurrency, config.tasks.concurrency_per_app);
    let places =
        |times, min| Places::new(all.saturating_mul(times), per_app.saturating_mul(times).max(min));
    let names = Resolver::new(&config.tasks.networks_allowed);
    let app = App {
        parts: Arc::new(Parts {
            going: Arc::default(),
            web_rate: Rate::new(config.tasks.web_per_minute, db.clock()),
            web_room: Places::new(BODY_ROOM_MEBIBYTES.0, BODY_ROOM_MEBIBYTES.1),
            run_room: Places::new(BODY_ROOM_MEBIBYTES.0, BODY_ROOM_MEBIBYTES.1),
            web_places: places(WEB_TIMES, 1),
            // As many as may wait for each other in one row.
            call_places: places(CALL_TIMES, usize::try_from(tasks::DEPTH_MAX).unwrap_or(1)),
            metrics: Metrics::new(&db),
            db,
            sandbox: Sandbox::new(child.program, child.args),
            client: built(client(OWN_TIMEOUT))?,
            egress: built(client(FETCH_TIMEOUT).dns_resolver(names))?,
            config,
            address,
            schedule_wake: Notify::new(),
            sweep_wake: Notify::new(),
            previews: Previews::default(),
            run_wake: Notify::new(),
            lease_wake: Notify::new(),
            run_ended: watch::Sender::new(()),
            rehearsal,
        }),
    };
    Ok((app, listener))
}

/// A client for requests of scripts. It follows no redirects, so that nobody leads a run past what
/// `reach` checks, and unpacks nothing, so that no answer grows past its limit.
fn client(timeout: Duration) -> reqwest::ClientBuilder {
    // An error means that a provider is installed already: as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
}

fn built(client: reqwest::ClientBuilder) -> Result<reqwest::Client, String> {
    client.build().map_err(|error| format!("cannot build the HTTP client: {error}"))
}

async fn accept(app: App, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(app.config.requests.connections_max));
    let router = api::router(app.clone());
    let graceful = GracefulShutdown::new();
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let next = async {
            let place = place.await;
            (place, listener.accept().await)
        };
        let (place, stream, peer) = tokio::select! {
            (place, accepted) = next => match (place, accepted) {
                (Ok(place), Ok((stream, peer))) => (place, stream, peer),
                (_, Err(error)) => {
                    // Out of descriptors, most likely: those in use must end first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                (Err(_), _) => break,
            },
            _ = stopped.changed() => break,
        };
        let silence = Arc::new(Silence::begin());
        let connection = graceful.watch(connection(&app, &router, (stream, peer), &silence));
        let read_timeout = Duration::from_millis(app.config.requests.read_timeout_ms);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                // A connection that breaks off is the client's affair.
                _ = connection => {}
                () = silence.lasts(read_timeout) => {}
            }
            drop(place);
        });
    }
    drop(listener);
    let drain = Duration::from_millis(app.config.requests.drain_timeout_ms);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time and were cut off");
    }
}

fn connection(
    app: &App,
    router: &Router,
    (stream, peer): (TcpStream, SocketAddr),
    silence: &Arc<Silence>,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + use<> {
    // Without this, an answer waits for the client's acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let stream = Heard::new(stream, silence);
    let (app, router, silence) = (app.clone(), router.clone(), Arc::clone(silence));
    // A request may have 100 headers, hyper's own limit: for another it would ask for memory anew.
    let service = service_fn(move |request| answer(&app, &router, &silence, (request, peer)));
    http1::Builder::new()
        // One piece of memory costs the kernel less than a list of one or two.
        .writev(false)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
}

/// Answers one request. A check is answered at once, before anything else is looked at: it is asked
/// before every request of every app.
fn answer(
    app: &App,
    router: &Router,
    silence: &Arc<Silence>,
    (mut request, peer): (Request<Incoming>, SocketAddr),
) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
    if request.uri().path() == "/check" {
        return Either::Left(ready(Ok(api::check::answer(app, request.headers()))));
    }
    let answering = silence.asked();
    request.extensions_mut().insert(ConnectInfo(peer));
    let (app, router) = (app.clone(), router.clone());
    Either::Right(Box::pin(
        async move { Ok(answering.until_sent(traced(&app, router, request).await)) },
    ))
}

/// With a request id, in the log and in the metrics.
async fn traced(app: &App, router: Router, request: Request<Incoming>) -> Response<Body> {
    let id = uuid::Uuid::now_v7();
    let span = tracing::info_span!(
        "request", %id, method = %request.method(), path = request.uri().path()
    );
    let mut response = guarded(app, router, request).instrument(span.clone()).await;
    app.metrics.count_answer(response.status());
    let status = response.status().as_u16();
    span.in_scope(|| tracing::info!(status, "answered"));
    if let Ok(value) = id.to_string().parse() {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

/// Within the limits of size and time; a panic is an answer too.
async fn guarded(app: &App, router: Router, request: Request<Incoming>) -> Response<Body> {
    let whole = async {
        // Room for a long body is held until the request is answered.
        let (request, _room) = match whole_request(app, request).await {
            Ok(whole) => whole,
            Err(answer) => {
                let mut response = answer.into_response();
                // The rest of the body is not read: no other request can come after it (RFC 9112,
                // section 9.6).
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
                return response;
            }
        };
        match router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, AssertUnwindSafe(whole).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Answer::from(Error::Internal("a request panicked".into())).into_response(),
        Err(_) => Answer::from(Error::InDoubt("a request took too long".into())).into_response(),
    }
}

/// The request with its whole body in memory, and its path without `.json`; and the room that a
/// body takes which may be longer than most.
async fn whole_request(
    app: &App,
    request: Request<Incoming>,
) -> Result<(Request<Body>, Option<Place>), Answer> {
    let requests = &app.config.requests;
    let (mut parts, body) = request.into_parts();
    let long = long_body(app, &parts)?;
    let bytes_max = long.as_ref().map_or(requests.body_bytes_max, |long| long.bytes_max);
    let too_large = || {
        let why = format!("the body may have {bytes_max} bytes: send less");
        Answer::new(Kind::TooLarge, why)
    };
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    let told = body.size_hint().upper().unwrap_or(u64::MAX).min(bytes_max as u64);
    let room = match long {
        Some(long) if told > requests.body_bytes_max as u64 => Some(room_for(long, told).await?),
        _ => None,
    };
    let read = Limited::new(body, bytes_max).collect();
    let read_timeout = Duration::from_millis(requests.read_timeout_ms);
    let body: Bytes = match tokio::time::timeout(read_timeout, read).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(too_large());
        }
        Ok(Err(_)) => {
            return Err(Answer::new(Kind::BadRequest, "the body broke off: send it again"));
        }
        Err(_) => {
            return Err(Answer::new(Kind::TooSlow, "the body came too slowly: send it again"));
        }
    };
    if let Some(plain) = without_json(&parts.uri) {
        parts.uri = plain;
    }
    // One that did not say how long it would be, and is short, leaves its room to others.
    let room = room.filter(|_| body.len() > requests.body_bytes_max);
    Ok((Request::from_parts(parts, Body::from(body)), room))
}

/// A body that may be longer than most.
struct LongBody<'a> {
    app: AppId,
    bytes_max: usize,
    room: &'a Places,
}

/// To a web task anybody may send one; of the API only who has a token of the app.
fn long_body<'a>(app: &'a App, head: &Head) -> Result<Option<LongBody<'a>>, Answer> {
    let path = head.uri.path();
    if let Some(of) = api::tasks::web::admit(app, path)? {
        let room = &app.web_room;
        return Ok(Some(LongBody { app: of, bytes_max: TASK_BODY_BYTES_MAX, room }));
    }
    let of = run_of(path).filter(|of| api::who::is_known(app, &head.headers, *of));
    let bytes_max = RUN_BODY_BYTES_MAX.max(app.config.requests.body_bytes_max);
    Ok(of.map(|of| LongBody { app: of, bytes_max, room: &app.run_room }))
}

/// The app, if this is the address at which a task is run.
fn run_of(path: &str) -> Option<AppId> {
    let rest = path.strip_prefix("/api/v4/")?.trim_end_matches(".json").strip_suffix("/run")?;
    rest.split_once("/tasks/")?.0.parse().ok()
}

/// Room for a long body.
async fn room_for(long: LongBody<'_>, bytes: u64) -> Result<Place, Answer> {
    let mebibytes = usize::try_from(bytes.div_ceil(1 << 20)).unwrap_or(usize::MAX);
    let room = tokio::time::timeout(ROOM_WAIT, long.room.wait(long.app, mebibytes)).await;
    room.ok().flatten().ok_or_else(|| {
        let why = "many long requests are being read already: try again".to_owned();
        Error::Busy { why, retry_after_s: 2 }.into()
    })
}

/// Every path of the API is accepted with and without `.json` (contract, section 1).
fn without_json(uri: &axum::http::Uri) -> Option<axum::http::Uri> {
    let path = uri.path().strip_prefix("/api/").and_then(|_| uri.path().strip_suffix(".json"))?;
    let text = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    text.parse().ok()
}
