//! rustls as an engine.

use std::fmt;
use std::sync::Arc;

use qio_proto::{Engine, Handshake, Progress};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, WriteTraffic};
use rustls::{ClientConfig, HandshakeKind, ServerConfig};

use super::direct::collect;
use super::identity::take_asked_name;
use super::notes::{self, Notes};
use super::record::{
    HEADER_BYTES, INBOUND_BYTES, QUOTED_BYTES, RECORD_BYTES, RECORD_OVERHEAD, has_record, is_tls,
    record_size, whole_records,
};
use super::side::{Client, Server, Side};
use super::{Certificate, Facts, TlsError};

/// One side of a TLS connection: the handshake first, and the engine after it.
///
/// Memory: the plain bytes of one record (16 KiB), while its reader has not taken them all;
/// handshake messages on their way out; parts of a message of the protocol's own, until the rest
/// comes. Nothing while idle, beside the keys.
pub struct Tls<S: Side> {
    connection: S::Connection,
    /// Records of the protocol's own that wait to go out.
    outbound: Vec<u8>,
    /// Records of the wire that rustls has looked at, but wants to see again at every call: parts of
    /// a handshake message whose rest has not come (RFC 8446, section 5.1), then what has come
    /// behind them of the next record. rustls panics where they are missing.
    held: Vec<u8>,
    /// The rest of a record that was larger than the reader's buffer.
    plain: Vec<u8>,
    taken: usize,
    /// The peer has sent a record.
    began: bool,
    /// The handshake is over.
    done: bool,
    ended: bool,
    finished: bool,
    failed: Option<TlsError>,
    /// Records can perhaps be taken where they are made.
    is_direct: bool,
    /// How many plain bytes go into one record.
    record_bytes: usize,
    /// The name that the client asked for.
    asked_name: Option<String>,
    notes: Box<Notes>,
}

/// The client's side.
pub type ClientTls = Tls<Client>;

/// The server's side.
pub type ServerTls = Tls<Server>;

impl Tls<Client> {
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let sent = match &name {
            ServerName::DnsName(name) if config.enable_sni => Some(name.as_ref().to_owned()),
            _ => None,
        };
        let fragment = config.max_fragment_size;
        let mut tls = Self::new(UnbufferedClientConnection::new(config, name)?, fragment);
        tls.asked_name = sent;
        // The first message wants to go out.
        tls.advance(&mut [], &mut [])
            .map_err(|_| rustls::Error::General("the first message cannot be made".into()))?;
        Ok(tls)
    }
}

impl Tls<Server> {
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let fragment = config.max_fragment_size;
        Ok(Self::new(UnbufferedServerConnection::new(config)?, fragment))
    }
}

impl<S: Side> Tls<S> {
    /// `fragment` is the setting of rustls, which has checked it: with the header of the record.
    fn new(connection: S::Connection, fragment: Option<usize>) -> Self {
        let record_bytes =
            fragment.map_or(RECORD_BYTES, |bytes| (bytes - HEADER_BYTES).min(RECORD_BYTES));
        Self {
            connection,
            outbound: Vec::new(),
            held: Vec::new(),
            plain: Vec::new(),
            taken: 0,
            began: false,
            done: false,
            ended: false,
            finished: false,
            failed: None,
            is_direct: record_bytes >= DIRECT_BYTES,
            record_bytes,
            asked_name: None,
            notes: Box::default(),
        }
    }

    /// What was agreed on; complete once the handshake is over. Of one that has failed: how far it
    /// came.
    pub fn facts(&self) -> Facts {
        let notes = &self.notes;
        let certificates = self.connection.peer_certificates().unwrap_or(&notes.refused);
        Facts {
            version: self.connection.protocol_version(),
            suite: self.connection.negotiated_cipher_suite().map(|suite| suite.suite()),
            alpn: self.connection.alpn_protocol().map(<[u8]>::to_vec),
            peer_certificates: certificates.to_vec(),
            peer: certificates.first().and_then(Certificate::parse),
            trusted_by: notes.trusted_by,
            knows_revoked: notes.knows_revoked,
            is_asked_for_certificate: notes.is_asked,
            shows_certificate: notes.shows,
            suite_name: None,
            server_name: self.asked_name.clone(),
            psk_user: None,
            resumed: self.connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// Changes the key that protects what we send, and asks the peer to change its own: RFC 8446,
    /// section 4.6.3. TLS 1.3 only. It happens by itself before a key has protected too much.
    ///
    /// # Errors
    ///
    /// Before the end of the handshake, after our side has ended, and with TLS 1.2.
    #[doc(alias = "gnutls_session_key_update")]
    pub fn refresh_keys(&mut self) -> Result<(), TlsError> {
        self.check_open()?;
        if !self.done {
            return Err(rustls::Error::HandshakeNotComplete.into());
        }
        // What is to be said goes before, with the key of before.
        self.with_traffic(|traffic, _| traffic.refresh_traffic_keys())??;
        self.settle()
    }

    /// Works on the wire until there is a record of plain bytes, or no more to do; plain bytes go
    /// to `plain`, and what does not fit is kept.
    fn advance(&mut self, wire: &mut [u8], plain: &mut [u8]) -> Result<Progress, TlsError> {
        let mut done = Progress::default();
        loop {
            let status = S::process(&mut self.connection, &mut wire[done.consumed..]);
            let discard = status.discard;
            match status.state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        let room = plain.len() - done.produced;
                        let (now, later) = record.payload.split_at(room.min(record.payload.len()));
                        // What is kept already comes first.
                        if self.plain.len() == self.taken {
                            let to = &mut plain[done.produced..][..now.len()];
                            to.copy_from_slice(now);
                            done.produced += now.len();
                            if !later.is_empty() {
                                (self.plain, self.taken) = (later.to_vec(), 0);
                            }
                        } else {
                            self.plain.extend_from_slice(record.payload);
                        }
                    }
                    done.consumed += discard;
                    self.done = true;
                    return Ok(done);
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outbound);
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    done.consumed += discard;
                    self.ended = true;
                    return Ok(done);
                }
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.done = true;
                    done.consumed += discard;
                    return Ok(done);
                }
                Ok(ConnectionState::BlockedHandshake) => {
                    done.consumed += discard;
                    return Ok(done);
                }
                // Early data is not accepted, and nothing else was asked for.
                Ok(_) => {
                    return Err(self.fail(rustls::Error::General(STRANGE.into())));
                }
                Err(error) => {
                    return Err(self.fail(error));
                }
            }
            done.consumed += discard;
        }
    }

    /// The same with what is held.
    fn advance_held(&mut self, plain: &mut [u8]) -> Result<Progress, TlsError> {
        let mut held = std::mem::take(&mut self.held);
        let result = self.advance(&mut held, plain);
        if let Ok(moved) = &result
            && !held.is_empty()
        {
            held.drain(..moved.consumed);
            if !held.is_empty() {
                self.held = held;
            }
        }
        result
    }

    /// Works off what is held, as far as it is whole, and collects what rustls has to say: rustls
    /// forgets both where it is asked for something else meanwhile.
    fn settle(&mut self) -> Result<(), TlsError> {
        while !self.held.is_empty() || self.connection.wants_write() {
            let collected = self.outbound.len();
            let moved = self.advance_held(&mut [])?;
            if moved == Progress::default() && self.outbound.len() == collected {
                break;
            }
        }
        Ok(())
    }

    /// Holds more of the wire, to the end of the next record and not further, and gives how much.
    fn hold(&mut self, wire: &[u8]) -> Result<usize, TlsError> {
        let start = whole_records(&self.held);
        let mut taken = 0;
        loop {
            let partial = self.held.len() - start;
            let size = record_size(&self.held[start..]).unwrap_or(HEADER_BYTES);
            // First the header, then what it announces.
            let more = (size - partial).min(wire.len() - taken);
            if more == 0 {
                break;
            }
            self.held.extend_from_slice(&wire[taken..][..more]);
            taken += more;
        }
        if self.held.len() > INBOUND_BYTES {
            let text = "the peer sends a message in more parts than there is room for";
            return Err(self.fail(rustls::Error::General(text.into())));
        }
        Ok(taken)
    }

    /// Remembers the error, and has the peer told.
    fn fail(&mut self, error: rustls::Error) -> TlsError {
        let error = TlsError::from(error);
        if self.failed.replace(error.clone()).is_none() {
            // The alert waits in the connection.
            self.collect_alert();
        }
        error
    }

    /// Only what waits already: rustls must not look at the wire again, which it would find as
    /// faulty as before.
    fn collect_alert(&mut self) {
        while self.connection.wants_write() {
            match S::process(&mut self.connection, &mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outbound);
                }
                _ => return,
            }
        }
    }

    /// Whether plain bytes may still be sent.
    fn check_open(&self) -> Result<(), TlsError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.finished => Err(TlsError::Ended),
            None => Ok(()),
        }
    }

    /// Works off what waits, and then does what a connection can do that may send. What goes out
    /// before is the second argument.
    fn with_traffic<R>(
        &mut self,
        work: impl FnOnce(WriteTraffic<'_, S::Data>, &mut Vec<u8>) -> R,
    ) -> Result<R, TlsError> {
        let error = loop {
            self.settle()?;
            match S::process(&mut self.connection, &mut self.held).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    return Ok(work(traffic, &mut self.outbound));
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                // Told once, and no reason not to send.
                Ok(ConnectionState::PeerClosed) if !self.ended => self.ended = true,
                Ok(_) => break rustls::Error::General(STRANGE.into()),
                Err(error) => break error,
            }
        };
        Err(self.fail(error))
    }

    /// Has plain bytes encrypted; `None` when something else has to go out first.
    fn encrypt(
        &mut self,
        encrypt: impl FnOnce(&mut WriteTraffic<'_, S::Data>) -> Result<usize, EncryptError>,
    ) -> Result<Option<usize>, TlsError> {
        let encrypted = self.with_traffic(|mut traffic, outbound| {
            // A new key is announced before it is used.
            outbound.is_empty().then(|| encrypt(&mut traffic)).transpose()
        })?;
        encrypted.map_err(|error| self.fail(rustls::Error::General(error.to_string())))
    }

    fn take_kept(&mut self, plain: &mut [u8]) -> usize {
        let kept = &self.plain[self.taken..];
        let count = kept.len().min(plain.len());
        plain[..count].copy_from_slice(&kept[..count]);
        self.taken += count;
        if self.taken == self.plain.len() {
            (self.plain, self.taken) = (Vec::new(), 0);
        }
        count
    }

    fn take_outbound(&mut self, wire: &mut [u8]) -> usize {
        let count = self.outbound.len().min(wire.len());
        wire[..count].copy_from_slice(&self.outbound[..count]);
        if count == self.outbound.len() {
            self.outbound = Vec::new();
        } else {
            self.outbound.drain(..count);
        }
        count
    }
}

impl<S: Side> Engine for Tls<S> {
    type Error = TlsError;

    fn handle_wire(&mut self, wire: &mut [u8], plain: &mut [u8]) -> Result<Progress, TlsError> {
        let mut done = Progress { consumed: 0, produced: self.take_kept(plain) };
        // With room, until that is full; without, until it is known what comes.
        let size = plain.len();
        while !self.ended {
            let is_full = match size {
                0 => self.taken < self.plain.len(),
                size => done.produced == size,
            };
            if is_full {
                break;
            }
            if let Some(error) = &self.failed {
                return if done.produced > 0 { Ok(done) } else { Err(error.clone()) };
            }
            let rest = &mut wire[done.consumed..];
            let room = &mut plain[done.produced..];
            let moved = if !self.held.is_empty() {
                match self.advance_held(room) {
                    // More is needed.
                    Ok(Progress { consumed: 0, produced: 0 }) => match self.hold(rest)? {
                        0 => break,
                        consumed => {
                            done.consumed += consumed;
                            continue;
                        }
                    },
                    Ok(moved) => Ok(Progress { consumed: 0, ..moved }),
                    Err(error) => Err(error),
                }
            } else if has_record(rest) {
                match self.advance(rest, room) {
                    // A part of a message.
                    Ok(Progress { consumed: 0, produced: 0 }) if !self.ended => {
                        let size = whole_records(rest);
                        self.held.extend_from_slice(&rest[..size]);
                        Ok(Progress { consumed: size, produced: 0 })
                    }
                    moved => moved,
                }
            } else {
                break;
            };
            match moved {
                Ok(moved) => {
                    done.consumed += moved.consumed;
                    done.produced += moved.produced;
                }
                // What came before is delivered first.
                Err(_) if done.produced > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn is_readable(&self, wire: &[u8]) -> bool {
        let _ = wire;
        self.taken < self.plain.len() || self.failed.is_some()
    }

    fn inbound_bytes(&self) -> usize {
        INBOUND_BYTES
    }

    fn has_ended(&self) -> bool {
        self.ended && self.taken == self.plain.len()
    }

    fn handle_end(&mut self) -> Result<(), TlsError> {
        if self.ended { Ok(()) } else { Err(TlsError::Truncated) }
    }

    fn poll_wire(&mut self, wire: &mut [u8]) -> usize {
        self.take_outbound(wire)
    }

    fn wants_wire(&self) -> bool {
        !self.outbound.is_empty()
    }

    fn handle_plain(&mut self, plain: &[u8], wire: &mut [u8]) -> Result<Progress, TlsError> {
        self.check_open()?;
        let mut done = Progress::default();
        while done.consumed < plain.len() {
            done.produced += self.take_outbound(&mut wire[done.produced..]);
            let room = wire.len() - done.produced;
            if !self.outbound.is_empty() || room <= RECORD_OVERHEAD {
                break;
            }
            let rest = &plain[done.consumed..];
            let piece = &rest[..rest.len().min(self.record_bytes).min(room - RECORD_OVERHEAD)];
            let room = &mut wire[done.produced..];
            match self.encrypt(|traffic| traffic.encrypt(piece, room)) {
                Ok(Some(count)) => {
                    done.consumed += piece.len();
                    done.produced += count;
                }
                Ok(None) => {}
                // What is in the buffer counts.
                Err(_) if done.consumed > 0 => break,
                Err(error) => {
                    self.outbound.splice(..0, wire[..done.produced].iter().copied());
                    return Err(error);
                }
            }
        }
        Ok(done)
    }

    fn give_pieces(
        &mut self,
        plain: &[u8],
        give: &mut dyn FnMut(Vec<u8>),
    ) -> Option<Result<usize, TlsError>> {
        if let Err(error) = self.check_open() {
            return Some(Err(error));
        }
        let piece = &plain[..plain.len().min(self.record_bytes)];
        while self.is_direct {
            if !self.outbound.is_empty() {
                give(std::mem::take(&mut self.outbound));
            }
            let mut is_direct = true;
            let encrypted = self.encrypt(|traffic| {
                match collect(|beside| traffic.encrypt(piece, beside), &mut *give) {
                    Ok(()) => Ok(piece.len()),
                    // The room is enough for all but data that is not kept from rustls.
                    Err(EncryptError::InsufficientSize(_)) => {
                        is_direct = false;
                        Ok(0)
                    }
                    Err(error) => Err(error),
                }
            });
            self.is_direct = is_direct;
            match encrypted {
                Ok(Some(count)) if is_direct => return Some(Ok(count)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    fn finish(&mut self) {
        if self.finished || self.failed.is_some() {
            return;
        }
        self.finished = true;
        // What is to be said goes before the farewell. Who cannot send, cannot say it.
        let _ = self.with_traffic(|mut traffic, outbound| {
            let start = outbound.len();
            outbound.resize(start + ALERT_BYTES, 0);
            let count = traffic.queue_close_notify(&mut outbound[start..]).unwrap_or(0);
            outbound.truncate(start + count);
        });
    }
}

impl<S: Side> Handshake for Tls<S> {
    type Engine = Self;
    type Error = TlsError;

    fn handle_wire(&mut self, wire: &mut [u8]) -> Result<usize, TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.done {
            return Ok(0);
        }
        if !self.began {
            match is_tls(wire) {
                Some(true) => self.began = true,
                Some(false) => {
                    let sent = wire[..wire.len().min(QUOTED_BYTES)].to_vec();
                    // The alert that the protocol has for it, and the words that help.
                    let _ = self.advance(wire, &mut []);
                    let error = TlsError::NotTls(sent);
                    self.failed = Some(error.clone());
                    return Err(error);
                }
                None => {}
            }
        }
        // Forget what another connection left behind.
        drop((take_asked_name(), notes::take()));
        let result = self.advance(wire, &mut []);
        if let Some(name) = take_asked_name() {
            self.asked_name = Some(name);
        }
        self.notes.add(notes::take());
        let consumed = result?.consumed;
        if self.done {
            // rustls may have looked at more than it has consumed.
            self.held.extend_from_slice(&wire[consumed..]);
            return Ok(wire.len());
        }
        Ok(consumed)
    }

    fn limit_bytes(&self) -> usize {
        INBOUND_BYTES
    }

    fn handle_end(&mut self) -> TlsError {
        TlsError::Unfinished
    }

    fn poll_wire(&mut self, wire: &mut [u8]) -> usize {
        self.take_outbound(wire)
    }

    fn wants_wire(&self) -> bool {
        !self.outbound.is_empty()
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn into_engine(self) -> Self {
        self
    }
}

/// Appends a message of the protocol's own.
fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, outbound: &mut Vec<u8>) {
    let start = outbound.len();
    let mut size = 0;
    loop {
        outbound.resize(start + size, 0);
        match data.encode(&mut outbound[start..]) {
            Ok(count) => break outbound.truncate(start + count),
            Err(EncodeError::InsufficientSize(needed)) => size = needed.required_size,
            Err(EncodeError::AlreadyEncoded) => break,
        }
    }
}

/// Smaller records are copied: that costs less than the memory of each.
const DIRECT_BYTES: usize = 4 * 1024;

const STRANGE: &str = "a state of the protocol that nobody asked for";

/// An alert in a record.
const ALERT_BYTES: usize = 2 + RECORD_OVERHEAD;

impl<S: Side> fmt::Debug for Tls<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tls")
            .field("version", &self.connection.protocol_version())
            .field("done", &self.done)
            .field("ended", &self.ended)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
