//! An echo server on poll(2), by hand: a set of what to poll is all that a loop needs.
//!
//! ```sh
//! cargo run -p qio-adapters --example echo_poll -- listen:tcp://127.0.0.1:7007
//! ```

mod echo;

use std::error::Error;
use std::task::Poll;
use std::time::Instant;

use echo::{Echo, Next};
use qio::watch::{PollSet, Steps};

fn main() -> Result<(), Box<dyn Error>> {
    let mut next = Next(echo::start()?);
    let mut clients: Vec<Echo> = Vec::new();
    let mut set = PollSet::new();
    loop {
        let now = Instant::now();
        // Who is over leaves, well or not.
        clients.retain_mut(|client| client.step(now).is_pending());
        while let Poll::Ready(client) = next.step(now) {
            let mut client = Echo::new(client?)?;
            if client.step(now).is_pending() {
                clients.push(client);
            }
        }
        set.clear();
        next.watch(&mut set);
        for client in &mut clients {
            client.watch(&mut set);
        }
        set.poll(None)?;
    }
}
