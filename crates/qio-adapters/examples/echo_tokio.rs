//! An echo server on tokio: every client is a task.
//!
//! ```sh
//! cargo run -p qio-adapters --features tokio --example echo_tokio -- listen:tcp://127.0.0.1:7007
//! ```

mod echo;

use std::error::Error;

use echo::{Echo, Next};
use qio_adapters::tokio::run;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = echo::start()?;
    loop {
        let client = run(Next(listener.clone())).await??;
        tokio::spawn(run(Echo::new(client)?));
    }
}
