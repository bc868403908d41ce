//! Three kinds of channels in one calloop: what clients of a socket send goes to a program, what
//! the program makes of it into memory, and from there to the screen. Ends after a line `bye`.
//!
//! ```sh
//! cargo run -p qio-adapters --features calloop --example calloop_three -- listen:tcp://127.0.0.1:7009 'exec:tr a-z A-Z'
//! ```

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use calloop::{EventLoop, LoopHandle, PostAction};
use qio::net::{ConnectOptions, ListenOptions, Listener, connect, listen};
use qio::transport::Duplex;
use qio::{Channel, ChannelExt, Interest, Mode};
use qio_adapters::calloop::{run, watch};

type Handle = LoopHandle<'static, Vec<u8>>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let from = words.next().unwrap_or("listen:tcp://127.0.0.1:7009".into());
    let through = words.next().unwrap_or("exec:cat".into());
    let listener: &Listener = Box::leak(Box::new(listen(&from.parse()?, &ListenOptions::new())?));
    println!("listening on {}", listener.local_addresses()[0]);
    let child = connect(&through.parse()?, &ConnectOptions::new())?;
    let (near, far) = Duplex::pair();
    let (near, far): (Arc<dyn Channel>, Arc<dyn Channel>) = (Arc::new(near), Arc::new(far));

    let mut events = EventLoop::<Vec<u8>>::try_new()?;
    let handle = events.handle();
    accept(&handle, listener, &child)?;
    pass(&handle, &child, &near)?;
    far.set_mode(Mode::NonBlocking)?;
    // The callback of the last one prints; what it has printed is the data of the loop.
    handle.insert_source(watch(far, Interest::READ), |_, watch, shown| {
        let mut buf = [0; 512];
        while let Ok(count @ 1..) = watch.channel().read(&mut buf) {
            let _ = io::stdout().write_all(&buf[..count]).and_then(|()| io::stdout().flush());
            shown.extend_from_slice(&buf[..count]);
        }
        shown.drain(..shown.len().saturating_sub(4));
        PostAction::Continue
    })?;
    let mut shown = Vec::new();
    while !shown.eq_ignore_ascii_case(b"bye\n") {
        events.dispatch(None, &mut shown)?;
    }
    Ok(())
}

/// Passes on what the clients say, one client after the other.
fn accept(handle: &Handle, from: &'static Listener, to: &Arc<dyn Channel>) -> io::Result<()> {
    let (inside, to) = (handle.clone(), Arc::clone(to));
    let accepting = run(from.accepting());
    let inserted = handle.insert_source(accepting, move |client, _, _| {
        // An error of the listener would be there for ever.
        let served = client.and_then(|client| pass(&inside, &client.channel, &to));
        let _ = served.and_then(|()| accept(&inside, from, &to));
        PostAction::Remove
    });
    inserted.map(drop).map_err(|error| io::Error::other(error.error))
}

/// Writes to one channel what comes out of another. A slow one holds the loop up here.
fn pass(handle: &Handle, from: &Arc<dyn Channel>, to: &Arc<dyn Channel>) -> io::Result<()> {
    from.set_mode(Mode::NonBlocking)?;
    let to = Arc::clone(to);
    let watch = watch(Arc::clone(from), Interest::READ);
    let inserted = handle.insert_source(watch, move |_, watch, _| {
        let mut buf = [0; 512];
        match watch.channel().read(&mut buf) {
            Ok(count @ 1..) if to.write_all(&buf[..count]).is_ok() => PostAction::Continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => PostAction::Continue,
            _ => PostAction::Remove,
        }
    });
    inserted.map(drop).map_err(|error| io::Error::other(error.error))
}
