//! An echo server on calloop: every client is a source.
//!
//! ```sh
//! cargo run -p qio-adapters --features calloop --example echo_calloop -- listen:tcp://127.0.0.1:7007
//! ```

mod echo;

use std::error::Error;
use std::sync::Arc;

use calloop::{EventLoop, LoopHandle, PostAction};
use echo::{Echo, Next};
use qio::net::Listener;
use qio_adapters::calloop::run;

fn main() -> Result<(), Box<dyn Error>> {
    let mut events = EventLoop::<Option<Box<dyn Error>>>::try_new()?;
    let handle = events.handle();
    accept(&handle, echo::start()?)?;
    loop {
        let mut failure = None;
        events.dispatch(None, &mut failure)?;
        if let Some(error) = failure {
            return Err(error);
        }
    }
}

type Handle = LoopHandle<'static, Option<Box<dyn Error>>>;

/// Waits for a client; when it is there, serves it and waits for the next.
fn accept(handle: &Handle, listener: Arc<Listener>) -> Result<(), Box<dyn Error>> {
    let inside = handle.clone();
    let next = run(Next(Arc::clone(&listener)));
    handle.insert_source(next, move |client, _, failure| {
        let result = client.map_err(Into::into).and_then(|client| {
            let serving = run(Echo::new(client)?);
            inside.insert_source(serving, |_, _, _| PostAction::Remove)?;
            accept(&inside, Arc::clone(&listener))
        });
        *failure = result.err();
        PostAction::Remove
    })?;
    Ok(())
}
