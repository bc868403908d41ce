//! A chat: a coroutine reads what a client says, another one writes what all say. No lock is needed.
//!
//! ```sh
//! cargo run -p qio-adapters --features coroutine,tokio --example coroutine_chat -- listen:tcp://127.0.0.1:7008
//! ```
//!
//! Then run `qio connect tcp://127.0.0.1:7008` in two terminals.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read};
use std::{rc::Rc, sync::Arc};

use qio::net::{ListenOptions, listen};
use qio::{Channel, ChannelExt, Io};
use qio_adapters::coroutine::{Coroutine, Waker, park, waker};
use qio_adapters::tokio::run;
use tokio::task::{LocalSet, spawn_local};

/// The longest line, in bytes, and how many lines may wait for a client that is slow.
const LINE: u64 = 4096;
const QUEUE: usize = 100;

/// What waits to be written to a client, and who writes it.
struct Client(VecDeque<Rc<str>>, Option<Waker>);

type Clients = Rc<RefCell<Vec<Rc<RefCell<Client>>>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("listen:tcp://127.0.0.1:7008".into());
    let listener = listen(&address.parse()?, &ListenOptions::new().max_connections(1000))?;
    println!("listening on {}", listener.local_addresses()[0]);
    let clients = Clients::default();
    let accepts = Coroutine::new(move || -> io::Result<()> {
        loop {
            let channel = listener.accept(None)?.channel;
            let client = Rc::new(RefCell::new(Client(VecDeque::new(), None)));
            clients.borrow_mut().push(Rc::clone(&client));
            let (writer, clients) = (Arc::clone(&channel), Rc::clone(&clients));
            spawn_local(run(Coroutine::new(move || write(&*writer, &client))?));
            spawn_local(run(Coroutine::new(move || read(&channel, &clients))?));
        }
    })?;
    Ok(LocalSet::new().run_until(run(accepts)).await???)
}

/// Tells everybody what the client says, until it leaves.
fn read(channel: &Arc<dyn Channel>, clients: &Clients) -> io::Result<()> {
    let mut input = BufReader::new(Io(channel));
    let mut line = String::new();
    while matches!(input.by_ref().take(LINE).read_line(&mut line), Ok(1..)) {
        let text: Rc<str> = format!("{}\n", line.trim_end()).into();
        for client in &*clients.borrow() {
            let Client(lines, writer) = &mut *client.borrow_mut();
            if lines.len() < QUEUE {
                lines.push_back(Rc::clone(&text));
            }
            writer.iter().for_each(Waker::wake);
        }
        // Whose writer has ended is no client any more.
        clients.borrow_mut().retain(|client| Rc::strong_count(client) > 1);
        line.clear();
    }
    channel.close()
}

/// Writes what is said to the client, until the channel is closed.
fn write(channel: &dyn Channel, client: &RefCell<Client>) -> io::Result<()> {
    client.borrow_mut().1 = waker();
    loop {
        let Some(line) = client.borrow_mut().0.pop_front() else {
            park()?;
            continue;
        };
        channel.write_all(line.as_bytes())?;
    }
}
