//! Who a process runs as: Docker's user strings, looked up in the container's own /etc/passwd and /etc/group.
//!
//! The C library's lookups are not used: a static one would load name-service modules, and those would be the container's.

use agent_protocol::{AgentError, ErrorKind};

/// Largest uid and gid that Docker accepts.
const ID_MAX: u32 = i32::MAX as u32;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory; `/` when /etc/passwd does not know one.
    pub home: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or("");
        Some(Account { name, uid, gid, home })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Group { name, gid, members: fields.next().unwrap_or("") })
    })
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= ID_MAX)
}

/// Resolves `user`, `uid`, `user:group`, `uid:gid`, `user:gid`, `uid:group`. An empty user is root.
///
/// A number need not be known; a name must. Groups that list the user are added unless the string names a group.
///
/// # Errors
/// [`ErrorKind::UserNotFound`].
pub fn resolve(user: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, AgentError> {
    let (passwd, group) = (String::from_utf8_lossy(passwd), String::from_utf8_lossy(group));
    let (wanted_user, wanted_group) = user.split_once(':').unwrap_or((user, ""));
    let wanted_user = if wanted_user.is_empty() { "0" } else { wanted_user };
    let not_found = |what, name, file| {
        let message = format!(
            "the image has no {what} {name:?}: no entry in its {file}, and not a number from 0 to {ID_MAX}"
        );
        AgentError::new(ErrorKind::UserNotFound, message)
    };

    let number = id(wanted_user);
    let account = accounts(&passwd).find(|a| a.name == wanted_user || Some(a.uid) == number);
    let (uid, default_gid, home) = match (&account, number) {
        (Some(account), _) => (account.uid, account.gid, account.home),
        (None, Some(number)) => (number, 0, ""),
        (None, None) => return Err(not_found("user", wanted_user, "/etc/passwd")),
    };

    let (gid, mut list) = if wanted_group.is_empty() {
        let name = account.as_ref().map(|a| a.name);
        let member = |g: &Group<'_>| g.members.split(',').any(|m| Some(m) == name);
        (default_gid, groups(&group).filter(member).map(|g| g.gid).collect())
    } else {
        let number = id(wanted_group);
        let known = groups(&group).find(|g| g.name == wanted_group || Some(g.gid) == number);
        let gid = known.map(|g| g.gid).or(number);
        (gid.ok_or_else(|| not_found("group", wanted_group, "/etc/group"))?, Vec::new())
    };
    list.retain(|other| *other != gid);
    list.insert(0, gid);
    let home = if home.is_empty() { "/" } else { home };
    Ok(Identity { uid, gid, groups: list, home: home.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/false\nbroken\napp:x:1000:1001::/home/app:\n";
    const GROUP: &[u8] =
        b"root:x:0:root\nwheel:x:10:root,app\nweb:x:33:\nextra:x:50:web,app\napp:x:1001:app\n";

    fn ids(user: &str) -> (u32, u32, Vec<u32>, String) {
        let found = resolve(user, PASSWD, GROUP).unwrap();
        (found.uid, found.gid, found.groups, found.home)
    }

    #[test]
    fn names_and_numbers_mean_the_same_account() {
        assert_eq!(ids("app"), (1000, 1001, vec![1001, 10, 50], "/home/app".into()));
        assert_eq!(ids("1000"), ids("app"));
    }

    #[test]
    fn nobody_given_is_root_with_its_groups() {
        assert_eq!(ids(""), (0, 0, vec![0, 10], "/root".into()));
    }

    #[test]
    fn an_unknown_number_is_taken_as_it_is() {
        assert_eq!(ids("4242"), (4242, 0, vec![0], "/".into()));
        assert_eq!(ids("4242:4343"), (4242, 4343, vec![4343], "/".into()));
    }

    #[test]
    fn a_named_group_replaces_the_supplementary_ones() {
        assert_eq!(ids("app:web"), (1000, 33, vec![33], "/home/app".into()));
        assert_eq!(ids("web:50").1, 50);
    }

    #[test]
    fn unknown_names_are_errors() {
        for user in ["nobody", "app:nogroup", "-1", "2147483648", "app:4294967295"] {
            let error = resolve(user, PASSWD, GROUP).unwrap_err();
            assert_eq!(error.kind, ErrorKind::UserNotFound, "{user}");
        }
    }

    #[test]
    fn without_any_files_root_is_still_root() {
        assert_eq!(resolve("0", b"", b"").unwrap().home, "/");
        assert!(resolve("root", b"", b"").is_err());
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(user in ".{0,20}", passwd in proptest::collection::vec(any::<u8>(), 0..300), group in ".{0,200}") {
            let _ = resolve(&user, &passwd, group.as_bytes());
        }
    }
}
