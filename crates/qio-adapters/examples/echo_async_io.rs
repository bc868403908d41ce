//! An echo server on async-io, the reactor of smol: every client is a task.
//!
//! ```sh
//! cargo run -p qio-adapters --features async-io --example echo_async_io -- listen:tcp://127.0.0.1:7007
//! ```

mod echo;

use std::error::Error;

use async_executor::LocalExecutor;
use echo::{Echo, Next};
use qio_adapters::async_io::run;

fn main() -> Result<(), Box<dyn Error>> {
    let listener = echo::start()?;
    let executor = LocalExecutor::new();
    futures_lite::future::block_on(executor.run(async {
        loop {
            let client = run(Next(listener.clone())).await??;
            executor.spawn(run(Echo::new(client)?)).detach();
        }
    }))
}
