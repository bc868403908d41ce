//! The logic of the echo servers: it knows channels, and no event loop.

use std::{error::Error, io, sync::Arc, task::Poll, time::Instant};

use qio::net::{Accepted, ListenOptions, Listener, listen};
use qio::watch::{PollSet, Steps};
use qio::{Channel, ChannelExt, Interest, Mode};

/// Listens where the command line says, and says where that is.
pub(crate) fn start() -> Result<Arc<Listener>, Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("listen:tcp://127.0.0.1:7007".into());
    let listener = listen(&address.parse()?, &ListenOptions::new().max_connections(1000))?;
    println!("listening on {}", listener.local_addresses()[0]);
    Ok(Arc::new(listener))
}

/// The next client of a listener.
pub(crate) struct Next(pub(crate) Arc<Listener>);

impl Steps for Next {
    type Output = io::Result<Accepted>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        self.0.accepting().step(now)
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.0.accepting().watch(set);
    }
}

/// Sends back what one client sends, until that ends.
pub(crate) struct Echo {
    channel: Arc<dyn Channel>,
    buf: Vec<u8>,
    ended: bool,
}

impl Echo {
    pub(crate) fn new(client: Accepted) -> io::Result<Self> {
        let channel = client.channel;
        channel.set_mode(Mode::NonBlocking)?;
        Ok(Self { channel, buf: Vec::new(), ended: false })
    }

    fn turn(&mut self) -> io::Result<()> {
        while !self.ended {
            while !self.buf.is_empty() {
                let count = self.channel.write(&self.buf)?;
                self.buf.drain(..count);
            }
            let mut buf = [0; 4096];
            let count = self.channel.read(&mut buf)?;
            (self.buf, self.ended) = (buf[..count].to_vec(), count == 0);
        }
        self.channel.finish()
    }
}

impl Steps for Echo {
    type Output = io::Result<()>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        match self.channel.drive(now).and_then(|()| self.turn()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        let writes = self.ended || !self.buf.is_empty();
        let interest = if writes { Interest::WRITE } else { Interest::READ };
        if !self.channel.watch(interest, set).is_empty() {
            set.wake_at(Instant::now());
        }
    }
}
