//! Who somebody is.

/// A process, its user and its group: the peer of a Unix socket, or the sender of a message.
///
/// The process is 0 when it cannot be seen from here (another pid namespace), or was not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process. Of a peer: as it was when it connected or listened.
    pub pid: i32,
    /// Its effective user, or for a message another one that the sender may act as.
    pub uid: u32,
    /// Its effective group, likewise.
    pub gid: u32,
}

impl PeerCredentials {
    /// These credentials. For channels that learn some.
    pub const fn new(pid: i32, uid: u32, gid: u32) -> Self {
        Self { pid, uid, gid }
    }
}
