//! OpenSSL as an engine.

use std::fmt;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{Error as SslError, ErrorCode, NameType, Ssl, SslStream, SslVersion};
use openssl::x509::X509Ref;
use qio_proto::{Engine, Handshake, Progress};
use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, ProtocolVersion};

use super::super::record::{
    HEADER_BYTES, INBOUND_BYTES, LONGEST_RECORD, QUOTED_BYTES, RECORD_BYTES, RECORD_OVERHEAD,
    is_tls, record_size,
};
use super::super::{Certificate, Facts, TlsError};
use super::check::Check;
use super::failure::explain;
use super::psk;
use super::verdict::Verdict;
use super::wire::Wire;

/// One side of a TLS connection by OpenSSL: the handshake first, and the engine after it.
///
/// Memory beside the state of OpenSSL, which keeps no buffers while idle: the plain bytes of one
/// record (16 KiB), while its reader has not taken them all; what the protocol itself has to say,
/// 16 KiB at most once the handshake is over; during the handshake one message of the peer, which
/// OpenSSL limits to some 100 KiB.
pub struct OpensslTls {
    stream: SslStream<Wire>,
    verdict: Arc<Verdict>,
    /// A certificate of the peer must have been checked.
    check: Option<Arc<Check>>,
    /// In a session with pre-shared keys, the user that a client says it is.
    user: Option<String>,
    /// OpenSSL has something that it was not asked about.
    is_fresh: bool,
    /// The peer has sent a record.
    began: bool,
    /// The handshake is over.
    done: bool,
    ended: bool,
    finished: bool,
    failed: Option<TlsError>,
}

impl OpensslTls {
    pub(super) fn new(
        ssl: Ssl,
        verdict: Arc<Verdict>,
        check: Option<Arc<Check>>,
        user: Option<String>,
    ) -> Result<Self, ErrorStack> {
        let is_client = !ssl.is_server();
        let mut tls = Self {
            stream: SslStream::new(ssl, Wire::default())?,
            verdict,
            check,
            user,
            is_fresh: true,
            began: false,
            done: false,
            ended: false,
            finished: false,
            failed: None,
        };
        if is_client {
            // The first message wants to go out; what is wrong is told by the handshake.
            let _ = tls.shake();
        }
        Ok(tls)
    }

    /// What was agreed on; complete once the handshake is over.
    pub fn facts(&self) -> Facts {
        let ssl = self.stream.ssl();
        let own = ssl.peer_certificate().and_then(|own| der(&own));
        let mut certificates: Vec<_> = own.iter().cloned().collect();
        for more in ssl.peer_cert_chain().into_iter().flatten().filter_map(der) {
            // A client's chain begins with the server's own, a server's with who signed the client.
            if own.as_ref() != Some(&more) {
                certificates.push(more);
            }
        }
        let is_psk = self.user.is_some();
        let user = match ssl.is_server() {
            true => psk::user_of(ssl),
            false => self.user.as_ref().map(|user| user.escape_debug().to_string()),
        };
        Facts {
            version: ssl.version2().and_then(version),
            suite_name: ssl.current_cipher().and_then(|suite| suite.standard_name()),
            suite: ssl
                .current_cipher()
                .map(|suite| CipherSuite::from(u16::from_be_bytes(suite.protocol_id()))),
            alpn: ssl.selected_alpn_protocol().map(<[u8]>::to_vec),
            peer: certificates.first().and_then(Certificate::parse),
            peer_certificates: certificates,
            server_name: match ssl.is_server() {
                true => ssl.servername(NameType::HOST_NAME).map(str::to_owned),
                false => None,
            },
            trusted_by: self.accepted_by().map(|check| check.trusted_by),
            knows_revoked: self.accepted_by().is_some_and(|check| check.knows_revoked),
            // OpenSSL tells that to who is asked while it happens, and to nobody else.
            is_asked_for_certificate: false,
            shows_certificate: false,
            psk_user: user,
            // To OpenSSL, a pre-shared key is a session that goes on.
            resumed: ssl.session_reused() && !is_psk,
        }
    }

    /// Who has accepted the peer's certificate, once that is so.
    fn accepted_by(&self) -> Option<&Check> {
        self.check.as_deref().filter(|_| self.verdict.is_good())
    }

    /// Works on the handshake.
    fn shake(&mut self) -> Result<(), TlsError> {
        match self.stream.do_handshake() {
            Ok(()) => {
                let ssl = self.stream.ssl();
                let must = self.check.is_some() && !ssl.session_reused();
                let shows = !ssl.is_server() || ssl.peer_certificate().is_some();
                if must && shows && !self.verdict.is_good() {
                    // It cannot be, and must not be.
                    let text = "the peer's certificate was not checked";
                    return Err(self.fail(TlsError::Failed(text.into())));
                }
                if self.user.is_some() && ssl.peer_certificate().is_some() {
                    // The same.
                    return Err(self.fail(TlsError::Failed(PASSED_OVER.into())));
                }
                self.done = true;
                Ok(())
            }
            Err(error) if wants_more(&error) => Ok(()),
            Err(error) => Err(self.refuse(&error)),
        }
    }

    /// Reads, or looks whether there is something to read when there is no room; `None` before more
    /// of the wire has come, and at the end.
    fn read(&mut self, plain: &mut [u8]) -> Result<Option<usize>, TlsError> {
        if !self.is_fresh && self.stream.ssl().pending() == 0 {
            return Ok(None);
        }
        self.is_fresh = false;
        let result = match plain.is_empty() {
            true => self.stream.ssl_peek(&mut [0]).map(|_| 0),
            false => self.stream.ssl_read(plain),
        };
        match result {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                self.ended = true;
                Ok(None)
            }
            Err(error) if wants_more(&error) => Ok(None),
            Err(error) => Err(self.refuse(&error)),
        }
    }

    /// An error of OpenSSL, which has written the alert for the peer.
    fn refuse(&mut self, error: &SslError) -> TlsError {
        let refusal = self.verdict.refusal().filter(|_| !self.done);
        let is_psk = self.user.is_some() && !self.done;
        self.fail(refusal.unwrap_or_else(|| match error.ssl_error() {
            Some(stack) => explain(stack, is_psk),
            None => TlsError::Failed("OpenSSL gives up and does not say why".into()),
        }))
    }

    fn fail(&mut self, error: TlsError) -> TlsError {
        self.failed.get_or_insert(error).clone()
    }

    fn feed(&mut self, record: &[u8]) {
        self.stream.get_mut().feed(record);
        self.is_fresh = true;
    }
}

impl Engine for OpensslTls {
    type Error = TlsError;

    fn handle_wire(&mut self, wire: &mut [u8], plain: &mut [u8]) -> Result<Progress, TlsError> {
        let mut done = Progress::default();
        let size = plain.len();
        while !self.ended {
            if let Some(error) = &self.failed {
                // What came before is delivered first.
                return if done.produced > 0 { Ok(done) } else { Err(error.clone()) };
            }
            if size > 0 && done.produced == size {
                break;
            }
            match self.read(&mut plain[done.produced..]) {
                Ok(Some(0)) => break,
                Ok(Some(count)) => {
                    done.produced += count;
                    continue;
                }
                Ok(None) if self.ended => break,
                Ok(None) => {}
                Err(_) => continue,
            }
            if self.stream.get_ref().waiting() > ANSWER_BYTES {
                let text = "the peer asks for more answers than it reads";
                self.fail(TlsError::Failed(text.into()));
                continue;
            }
            let rest = &wire[done.consumed..];
            let Some(size) = next_piece(rest) else { break };
            self.feed(&rest[..size]);
            done.consumed += size;
        }
        Ok(done)
    }

    fn is_readable(&self, wire: &[u8]) -> bool {
        let _ = wire;
        self.stream.ssl().pending() > 0 || self.failed.is_some()
    }

    fn inbound_bytes(&self) -> usize {
        INBOUND_BYTES
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn handle_end(&mut self) -> Result<(), TlsError> {
        if self.ended { Ok(()) } else { Err(TlsError::Truncated) }
    }

    fn poll_wire(&mut self, wire: &mut [u8]) -> usize {
        self.stream.get_mut().take(wire)
    }

    fn wants_wire(&self) -> bool {
        self.stream.get_ref().waiting() > 0
    }

    fn handle_plain(&mut self, plain: &[u8], wire: &mut [u8]) -> Result<Progress, TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.finished {
            return Err(TlsError::Ended);
        }
        let mut done = Progress::default();
        while done.consumed < plain.len() {
            done.produced += self.stream.get_mut().take(&mut wire[done.produced..]);
            let room = wire.len() - done.produced;
            if self.stream.get_ref().waiting() > 0 || room <= RECORD_OVERHEAD {
                break;
            }
            let rest = &plain[done.consumed..];
            let piece = &rest[..rest.len().min(RECORD_BYTES).min(room - RECORD_OVERHEAD)];
            match self.stream.ssl_write(piece) {
                Ok(count) => done.consumed += count,
                Err(error) => return Err(self.refuse(&error)),
            }
            done.produced += self.stream.get_mut().take(&mut wire[done.produced..]);
        }
        Ok(done)
    }

    fn finish(&mut self) {
        if self.finished || self.failed.is_some() {
            return;
        }
        self.finished = true;
        // Written, or the connection is broken, which the reader is told.
        let _ = self.stream.shutdown();
        self.stream.get_mut().mute();
    }
}

impl Handshake for OpensslTls {
    type Engine = Self;
    type Error = TlsError;

    fn handle_wire(&mut self, wire: &mut [u8]) -> Result<usize, TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if !self.began {
            match is_tls(wire) {
                Some(true) => self.began = true,
                Some(false) => {
                    let sent = wire[..wire.len().min(QUOTED_BYTES)].to_vec();
                    return Err(self.fail(TlsError::NotTls(sent)));
                }
                None => {}
            }
        }
        let mut consumed = 0;
        while !self.done {
            let rest = &wire[consumed..];
            let Some(size) = next_piece(rest) else { break };
            self.feed(&rest[..size]);
            consumed += size;
            self.shake()?;
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
        self.stream.get_mut().take(wire)
    }

    fn wants_wire(&self) -> bool {
        self.stream.get_ref().waiting() > 0
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn into_engine(self) -> Self {
        self
    }
}

/// The next piece of the wire for OpenSSL: a whole record, so that it need not keep parts; of one
/// that is too long the header, which is all it takes to refuse it.
fn next_piece(wire: &[u8]) -> Option<usize> {
    match record_size(wire)? {
        size if size > LONGEST_RECORD => Some(HEADER_BYTES),
        size => (wire.len() >= size).then_some(size),
    }
}

fn wants_more(error: &SslError) -> bool {
    // Writing never waits.
    error.code() == ErrorCode::WANT_READ
}

fn version(version: SslVersion) -> Option<ProtocolVersion> {
    match version {
        SslVersion::TLS1_2 => Some(ProtocolVersion::TLSv1_2),
        SslVersion::TLS1_3 => Some(ProtocolVersion::TLSv1_3),
        _ => None,
    }
}

fn der(certificate: &X509Ref) -> Option<CertificateDer<'static>> {
    certificate.to_der().ok().map(CertificateDer::from)
}

/// What a client with a pre-shared key must never accept.
pub(super) const PASSED_OVER: &str =
    "the server shows a certificate instead of knowing the pre-shared key (PSK)";

/// How much the protocol itself may have to say, and the peer not read: hundreds of answers to
/// requests for new keys (RFC 8446, section 4.6.3), of which one at a time makes sense.
const ANSWER_BYTES: usize = 16 * 1024;

impl fmt::Debug for OpensslTls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OpensslTls")
            .field("version", &self.stream.ssl().version_str())
            .field("done", &self.done)
            .field("ended", &self.ended)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
