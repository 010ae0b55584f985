//! Lines of the guest's kernel log that tell of the OOM killer, as `/dev/kmsg` gives them.
//!
//! Source: Documentation/ABI/testing/dev-kmsg, and mm/oom_kill.c, mm/memcontrol.c of Linux 6.12. Such a line holds a name that the victim chose
//! (`task`, at most 15 bytes, commas and equals signs included) and names of cgroups, which a container may choose below its own if its spec
//! lets it. So nothing is looked for by its first match: the tail is taken off from the right, where only digits and one short
//! name are, and what is left must have each field once. A line that could be read in two ways is not read.
//!
//! Pure, and without a word of the rest of the agent: `tests/hostile` includes this file.

/// Bytes of a task's name, without the zero behind it (TASK_COMM_LEN).
const NAME_BYTES: usize = 15;
/// Where containers' cgroups are.
const PODS: &str = "/pods";

/// What a record of the kernel's log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<'a> {
    /// The kernel is about to kill a process of a container.
    Victim(Victim<'a>),
    /// It did not have to, after all: the process with this id was ending already.
    Spared(u32),
}

/// A process that the kernel chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim<'a> {
    /// Its container.
    pub container: &'a str,
    /// The cgroup whose limit was hit, with its slash in front; none when the guest itself ran dry.
    pub limited: Option<&'a str>,
    /// Its id, the guest's.
    pub pid: u32,
    /// Its name: printable ASCII, other bytes and backslashes as `\xff`.
    pub name: &'a str,
}

/// Reads one record. None when it speaks of something else, comes from a program, or is torn.
pub fn parse(record: &[u8]) -> Option<Line<'_>> {
    let record = std::str::from_utf8(record).ok()?;
    // What follows the first line end are the record's variables; an end of line in the text itself is escaped.
    let (header, text) = record.lines().next()?.split_once(';')?;
    if !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return None;
    }
    let mut fields = header.split(',');
    // Facility 0 is the kernel; programs that write to the log can't have it.
    let priority: u32 = fields.next()?.parse().ok()?;
    // `c` is a piece that could not be joined to its line, so it may begin with anything.
    if priority > 7 || fields.nth(2) != Some("-") {
        return None;
    }
    match text.strip_prefix("oom-kill:constraint=CONSTRAINT_") {
        Some(rest) => victim(rest).map(Line::Victim),
        None => spared(text).map(Line::Spared),
    }
}

fn victim(text: &str) -> Option<Victim<'_>> {
    let (text, _uid) = number_behind(text, ",uid=")?;
    let (text, pid) = number_behind(text, ",pid=")?;
    // The leftmost place that leaves a name of a possible length: further right is inside of the name.
    let at = text.match_indices(",task=").map(|(at, _)| at).find(|at| {
        let name = &text[at + ",task=".len()..];
        length(name).is_some_and(|bytes| bytes <= NAME_BYTES)
    })?;
    let (head, name) = (&text[..at], &text[at + ",task=".len()..]);
    let (head, group) = split_once_only(head, ",task_memcg=")?;
    let container = container(group)?;
    let limited = match split_once_only(head, ",oom_memcg=") {
        // The agent makes no other groups: the limit is the container's, of one below its own, or that of all containers.
        Some((_, limited)) if limited == PODS || self::container(limited) == Some(container) => Some(limited),
        Some(_) => return None,
        None if head.ends_with(",global_oom") && !head.contains(",oom_memcg=") => None,
        None => return None,
    };
    Some(Victim { container, limited, pid, name })
}

fn spared(text: &str) -> Option<u32> {
    let kinds = ["Memory cgroup out of memory: OOM victim ", "Out of memory: OOM victim "];
    let rest = kinds.iter().find_map(|kind| text.strip_prefix(kind))?;
    rest.split_once(" (")?.0.parse().ok()
}

/// The number that stands behind the last `key`, which must be all there is.
fn number_behind<'a>(text: &'a str, key: &str) -> Option<(&'a str, u32)> {
    let (before, number) = text.rsplit_once(key)?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    Some((before, digits.then(|| number.parse().ok())??))
}

/// Parts a text at a key that it must hold once.
fn split_once_only<'a>(text: &'a str, key: &str) -> Option<(&'a str, &'a str)> {
    text.split_once(key).filter(|(_, after)| !after.contains(key))
}

/// How many bytes an escaped text stands for; none when its escapes are damaged.
fn length(escaped: &str) -> Option<usize> {
    let mut pieces = escaped.split('\\');
    let first = pieces.next()?.len();
    pieces.try_fold(first, |sum, piece| {
        let digits = piece.strip_prefix('x')?.as_bytes();
        let whole = digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit);
        whole.then(|| sum + 1 + digits.len() - 2)
    })
}

/// The container to which a cgroup belongs: that of `/pods/<id>` or of one below.
fn container(group: &str) -> Option<&str> {
    let id = group.strip_prefix(PODS)?.strip_prefix('/')?.split('/').next()?;
    let clean = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    (clean && !id.is_empty()).then_some(id)
}
