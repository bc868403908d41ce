//! Certificates that change while connections live.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::error::Result;

/// A configuration that can be made anew, from files that have changed.
///
/// New connections take [`current`](Self::current); those that exist keep what they began with,
/// and notice nothing. Sessions of before a reload are not resumed after it, so that everybody is
/// verified anew.
///
/// From [`ServerSettings::reloadable`](super::ServerSettings::reloadable) or
/// [`ClientSettings::reloadable`](super::ClientSettings::reloadable). Any thread may read and
/// reload.
pub struct Reloadable<C> {
    current: ArcSwap<C>,
    load: Box<dyn Fn() -> Result<Arc<C>> + Send + Sync>,
}

impl<C> Reloadable<C> {
    /// A configuration that `load` makes, now and at every reload.
    ///
    /// # Errors
    ///
    /// Those of `load`.
    pub fn new(load: impl Fn() -> Result<Arc<C>> + Send + Sync + 'static) -> Result<Self> {
        Ok(Self { current: ArcSwap::new(load()?), load: Box::new(load) })
    }

    /// The configuration for a new connection.
    pub fn current(&self) -> Arc<C> {
        self.current.load_full()
    }

    /// Makes the configuration anew.
    ///
    /// # Errors
    ///
    /// When it cannot be made; the old one stays.
    #[doc(alias = "qcrypto_tls_creds_reload")]
    pub fn reload(&self) -> Result<()> {
        self.current.store((self.load)()?);
        Ok(())
    }
}

impl<C> fmt::Debug for Reloadable<C> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Reloadable").finish_non_exhaustive()
    }
}
