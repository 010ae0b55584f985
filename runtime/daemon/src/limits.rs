//! What the kernel lets this process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process have as many descriptors as it may: the lower limit that shells and service managers give is for programs that use
/// `select`. Programs that the daemon starts inherit it; none of them uses that, and VM processes get limits of their own.
pub fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, "the limit of open files can't be raised: fewer clients can be served at a time");
    }
}

/// How many descriptors this process may have; none: any number.
pub fn descriptors() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_may_be_had_is_had() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let fewer = Some(maximum.map_or(512, |maximum| maximum.min(512)));
        setrlimit(Resource::Nofile, Rlimit { current: fewer, maximum }).unwrap();
        raise_descriptors();
        assert_eq!(descriptors(), maximum);
    }
}
