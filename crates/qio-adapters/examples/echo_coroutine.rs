//! An echo server of coroutines: each blocks where it stands, and all of them share one thread.
//!
//! ```sh
//! cargo run -p qio-adapters --features coroutine,tokio --example echo_coroutine -- listen:tcp://127.0.0.1:7007
//! ```

mod echo;

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;

use echo::{Echo, Next};
use qio::watch;
use qio_adapters::coroutine::Coroutine;
use qio_adapters::tokio::run;
use tokio::task::{LocalSet, spawn_local};

type Failure = Box<dyn Error + Send + Sync>;

/// tokio waits here; any of the other loops would do.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = echo::start()?;
    let accepts = Coroutine::new(move || -> Result<(), Failure> {
        loop {
            let next = watch::run(Next(Arc::clone(&listener)), None)?;
            let ControlFlow::Break(client) = next else { continue };
            let client = client?;
            let serves = Coroutine::new(move || -> Result<(), Failure> {
                let _ = watch::run(Echo::new(client)?, None)?;
                Ok(())
            })?;
            spawn_local(run(serves));
        }
    })?;
    LocalSet::new().run_until(run(accepts)).await??.map_err(|error| error as Box<dyn Error>)
}
