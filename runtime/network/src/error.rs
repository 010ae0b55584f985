//! Why a pod gets no network.

use std::io;

/// What can go wrong with pods' networks.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The pool in the environment.
    #[error("VIAL_POOL={text} cannot be the pods' addresses: {why}")]
    Pool {
        /// As written.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Everything is used.
    #[error(
        "this host's routes leave none of Vial's address ranges free (it uses {taken}); choose one with VIAL_POOL=10.99.0.0/16 \
         in the daemon's environment, or run with --network none"
    )]
    NoPool {
        /// What is taken.
        taken: String,
    },
    /// All addresses of the pool are in use.
    #[error(
        "all {0} addresses of the pods' pool are in use; end some pods, or choose a larger pool with VIAL_POOL"
    )]
    Full(u32),
    /// There is no nft program.
    #[error(
        "there is no nft program, which writes the firewall rules that a pod's network needs: apt-get install nftables; or run with --network none"
    )]
    NoNft,
    /// nft said no.
    #[error(
        "nft refused the rules for pods' networks: {0}; vial doctor may know why; --network none runs without"
    )]
    Nft(String),
    /// A system call.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Netlink.
    #[error("the kernel refuses to {what}: {why}")]
    Netlink {
        /// What was tried.
        what: &'static str,
        /// What it says.
        why: String,
    },
    /// A port of the host is taken.
    #[error("port {port} of this host is in use by {by}; publish another one with -p, or end what uses it")]
    PortInUse {
        /// `127.0.0.1:8080/tcp`
        port: String,
        /// By whom.
        by: String,
    },
    /// Two of the ports that one pod asks for are the same of the host's.
    #[error("port {0} of this host is given twice; a port can lead to one place only")]
    PortTwice(String),
    /// An address to publish on that is not there.
    #[error(
        "{0} is no address of this host, so no port can be published on it; ip address shows those that are"
    )]
    NoAddress(std::net::IpAddr),
}

impl NetworkError {
    /// Whether this host lacks something, or refuses: no pod would get a network. Else it is about one request, or about what an
    /// administrator wrote.
    pub fn is_of_the_host(&self) -> bool {
        match self {
            Self::NoPool { .. } | Self::NoNft | Self::Nft(_) | Self::System { .. } | Self::Netlink { .. } => {
                true
            }
            Self::Pool { .. }
            | Self::Full(_)
            | Self::PortInUse { .. }
            | Self::PortTwice(_)
            | Self::NoAddress(_) => false,
        }
    }

    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    pub(crate) fn errno(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |source| Self::System { what, source: source.into() }
    }
}
