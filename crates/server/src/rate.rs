//! How many requests to an app's web tasks are answered a minute: anybody may send them, and each
//! is a run with entries in the ledger. How many go at once is in `workers::places`.

use std::num::NonZeroU32;
use std::ops::Add;

use governor::clock::{Clock as Ticks, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use reauth_domain::{AppId, Clock, Span, Time};

/// See the module. It remembers one moment for each app that was ever asked.
pub(crate) struct Rate {
    limiter: RateLimiter<AppId, HashMapStateStore<AppId>, OwnClock, NoOpMiddleware<Moment>>,
    clock: OwnClock,
}

impl Rate {
    pub(crate) fn new(per_minute: u32, clock: &Clock) -> Self {
        let quota = Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN));
        let clock = OwnClock(clock.clone());
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), clock.clone());
        Self { limiter, clock }
    }

    /// Counts a request; or answers after how many seconds one will be answered again.
    pub(crate) fn take(&self, app: AppId) -> Result<(), u32> {
        self.limiter.check_key(&app).map_err(|refused| {
            let wait = refused.wait_time_from(self.clock.now());
            u32::try_from(wait.as_micros().div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1)
        })
    }
}

/// The one clock, as the limiter reads it.
#[derive(Clone)]
struct OwnClock(Clock);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(Time);

impl Ticks for OwnClock {
    type Instant = Moment;

    fn now(&self) -> Moment {
        Moment(self.0.now())
    }
}

/// A refusal must not be a little too short: rounded up.
fn span(nanos: Nanos) -> Span {
    Span::from_micros(i64::try_from(nanos.as_u64().div_ceil(1_000)).unwrap_or(i64::MAX))
}

impl Add<Nanos> for Moment {
    type Output = Self;

    fn add(self, nanos: Nanos) -> Self {
        Self(self.0 + span(nanos))
    }
}

impl Reference for Moment {
    fn duration_since(&self, earlier: Self) -> Nanos {
        let micros = u64::try_from((self.0 - earlier.0).micros()).unwrap_or(0);
        Nanos::new(micros.saturating_mul(1_000))
    }

    fn saturating_sub(&self, nanos: Nanos) -> Self {
        Self(self.0 - span(nanos))
    }
}
