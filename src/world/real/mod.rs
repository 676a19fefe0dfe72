//! The real world: tokio's sockets and timers, `std::fs`, the operating system's clock and randomness.
//!
//! [`RealEndpoint`] needs a tokio runtime with I/O and time enabled around it, of any flavour: all of its tasks are
//! `Send`. A process over it may be run with `block_on`, as a spawned task, or on a `LocalSet` if it is not `Send`.

mod disk;
mod endpoint;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::{Rng, Time, streams};

pub use self::disk::{RealDisk, RealFile};
pub use self::endpoint::{RealEndpoint, TerminateHandle};

#[expect(clippy::disallowed_types, reason = "here is where world::World::now gets its time")]
type OsInstant = std::time::Instant;

/// When this process's monotonic time began: one for all worlds and endpoints, so that they agree on what a `Time` is.
fn epoch() -> OsInstant {
    static EPOCH: OnceLock<OsInstant> = OnceLock::new();
    *EPOCH.get_or_init(OsInstant::now)
}

/// Time since [`epoch`].
fn now() -> Time {
    Time::ZERO + epoch().elapsed()
}

/// A process's handle to the machine it really runs on. Cheap to clone.
#[derive(Clone)]
pub struct RealWorld {
    data_dir: Arc<Path>,
    seed: u64,
    fresh_streams: Arc<AtomicU64>,
}

impl RealWorld {
    /// A world whose disk is `data_dir`, which is created if need be. An error is that of creating it, or of reading
    /// the operating system's randomness.
    pub fn new(data_dir: PathBuf) -> io::Result<RealWorld> {
        epoch();
        fs::create_dir_all(&data_dir)?;
        let mut seed = [0; 8];
        fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
        let seed = u64::from_ne_bytes(seed);
        Ok(RealWorld { data_dir: data_dir.into(), seed, fresh_streams: Arc::default() })
    }

    /// Time since the first world or endpoint of this process was made.
    pub fn now(&self) -> Time {
        now()
    }

    pub fn wall_clock_ms(&self) -> i64 {
        #[expect(clippy::disallowed_types, reason = "here is where world::World::wall_clock_ms gets its time")]
        let since_1970 = std::time::SystemTime::UNIX_EPOCH.elapsed();
        match since_1970 {
            Ok(elapsed) => elapsed.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        }
    }

    /// A stream that is a function of a seed drawn when this world was made, and of `stream`.
    pub fn rng(&self, stream: &str) -> Rng {
        streams::fork(self.seed, &[stream])
    }

    /// How many calls came before.
    pub fn fresh_streams(&self) -> u64 {
        self.fresh_streams.fetch_add(1, Ordering::Relaxed)
    }

    pub fn disk(&self) -> RealDisk {
        RealDisk::new(self.data_dir.clone())
    }
}
