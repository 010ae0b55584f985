//! What a starting daemon makes of a container: a pure function of what the store says and what the machine shows.
//! `docs/daemon.md` has the table.

use vial_api::{Exit, State};

/// What is found of a container's VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// No trace: the machine was restarted, or it was cleaned up already.
    Nothing,
    /// Its process lives.
    Alive,
    /// Whatever is there of it is of an earlier boot of the machine: it ended with that.
    Rebooted,
    /// Its process is gone, its folder is there; this is what it left as a reason.
    Dead {
        /// For people.
        reason: String,
        /// Whether it was killed from outside.
        killed: bool,
    },
}

/// What is to be done with the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmAction {
    /// There is none.
    Nothing,
    /// Connect to it again and go on.
    Reattach,
    /// Let the guest write out what the container left, end it, then remove its folder and cgroup.
    End,
    /// End it, then remove its folder and cgroup.
    Kill,
    /// Remove its folder and cgroup.
    Clean,
}

/// What is to be done with what the store says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordAction {
    /// It is true as it is.
    Keep,
    /// The container has ended, so.
    Exited(Exit),
    /// The container has ended, so, and is to be removed as soon as whoever was attached knows. None: as it is noted.
    Leave(Option<Exit>),
    /// It was being removed, or wanted to be with its end: finish that.
    Remove,
}

/// Both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// First.
    pub vm: VmAction,
    /// Then.
    pub record: RecordAction,
}

/// Exit code of a container whose command was never seen to start.
const NEVER_STARTED: i32 = 125;
/// Exit code of a container of which nobody knows how it ended.
const UNKNOWN: i32 = 255;
/// Exit code of a container whose VM was killed, as if the signal had been for it.
const KILLED: i32 = 137;

/// Why a container's command was not started: whoever was about to start it ended, and so did what there was of its VM.
const LOST: &str = "the daemon ended before the command was started";
/// The same, with the whole machine.
const LOST_WITH_MACHINE: &str = "the machine was restarted before the command was started";

/// The end of a container whose daemon ended while it was started.
pub fn start_lost() -> Exit {
    Exit { code: NEVER_STARTED, reason: Some(LOST.into()), ..Exit::default() }
}

/// Whether an end says nothing about the container: its start was lost with the daemon or the machine.
pub fn is_start_lost(exit: &Exit) -> bool {
    exit.code == NEVER_STARTED && matches!(exit.reason.as_deref(), Some(LOST | LOST_WITH_MACHINE))
}

/// Decides.
pub fn decide(stored: State, auto_remove: bool, observed: &Observed) -> Decision {
    let ended = match observed {
        Observed::Nothing => VmAction::Nothing,
        // The container has ended, and may be started again.
        Observed::Alive if stored == State::Exited && !auto_remove => VmAction::End,
        Observed::Alive => VmAction::Kill,
        Observed::Dead { .. } | Observed::Rebooted => VmAction::Clean,
    };
    // A machine that was restarted has no clients from before, and one of a start that was lost finds nothing, which it understands.
    let exited = |exit| match (auto_remove, stored, observed) {
        (false, ..) => RecordAction::Exited(exit),
        (true, State::Starting, _) | (true, _, Observed::Rebooted) => RecordAction::Remove,
        (true, ..) => RecordAction::Leave(Some(exit)),
    };
    match (stored, observed) {
        (State::Running, Observed::Alive) => Decision { vm: VmAction::Reattach, record: RecordAction::Keep },
        (State::Running, Observed::Dead { reason, killed }) => {
            Decision { vm: ended, record: exited(vm_ended(reason, *killed)) }
        }
        (State::Running, Observed::Nothing | Observed::Rebooted) => {
            let reason = match observed {
                Observed::Rebooted => "the machine was restarted, or lost its power",
                _ => "its VM is gone without a trace",
            };
            Decision {
                vm: ended,
                record: exited(Exit { code: UNKNOWN, reason: Some(reason.into()), ..Exit::default() }),
            }
        }
        // A start is not taken up in the middle: whoever waited for it is gone.
        (State::Starting, _) => {
            let lost = match observed {
                Observed::Rebooted => Exit { reason: Some(LOST_WITH_MACHINE.into()), ..start_lost() },
                _ => start_lost(),
            };
            Decision { vm: ended, record: exited(lost) }
        }
        (State::Exited, Observed::Rebooted) if auto_remove => {
            Decision { vm: ended, record: RecordAction::Remove }
        }
        (State::Exited, _) if auto_remove => Decision { vm: ended, record: RecordAction::Leave(None) },
        // Paused and restarting are not stored: the one is the VM's own state, the other follows from how it ended.
        (State::Created | State::Exited | State::Paused | State::Restarting, _) => {
            Decision { vm: ended, record: RecordAction::Keep }
        }
        (State::Removing | State::Dead, _) => Decision { vm: ended, record: RecordAction::Remove },
    }
}

/// The end of a container whose VM ended without a word from the agent.
pub fn vm_ended(reason: &str, killed: bool) -> Exit {
    let reason = Some(format!("its VM ended: {reason}"));
    if killed {
        Exit { code: KILLED, signal: Some(9), reason, ..Exit::default() }
    } else {
        Exit { code: UNKNOWN, reason, ..Exit::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Observed::{Alive, Nothing, Rebooted};
    use State::{Created, Dead, Exited, Removing, Running, Starting};

    fn dead() -> Observed {
        Observed::Dead { reason: "the guest's kernel panicked".into(), killed: false }
    }

    fn killed() -> Observed {
        Observed::Dead { reason: "killed".into(), killed: true }
    }

    fn code(record: &RecordAction) -> Option<i32> {
        match record {
            RecordAction::Exited(exit) => Some(exit.code),
            _ => None,
        }
    }

    /// The table of `docs/daemon.md`, row by row.
    #[test]
    fn the_table() {
        let rows = [
            (Starting, Nothing, VmAction::Nothing, Some(125)),
            (Starting, Alive, VmAction::Kill, Some(125)),
            (Starting, dead(), VmAction::Clean, Some(125)),
            (Starting, Rebooted, VmAction::Clean, Some(125)),
            (Running, Rebooted, VmAction::Clean, Some(255)),
            (Running, Nothing, VmAction::Nothing, Some(255)),
            (Running, Alive, VmAction::Reattach, None),
            (Running, dead(), VmAction::Clean, Some(255)),
            (Running, killed(), VmAction::Clean, Some(137)),
            (Exited, Nothing, VmAction::Nothing, None),
            (Exited, Alive, VmAction::End, None),
            (Exited, dead(), VmAction::Clean, None),
            (Exited, Rebooted, VmAction::Clean, None),
        ];
        for (stored, observed, vm, exit) in rows {
            let decision = decide(stored, false, &observed);
            assert_eq!((decision.vm, code(&decision.record)), (vm, exit), "{stored:?} {observed:?}");
            assert_ne!(decision.record, RecordAction::Remove, "{stored:?} {observed:?}");
            let lost = matches!(&decision.record, RecordAction::Exited(exit) if is_start_lost(exit));
            assert_eq!(lost, stored == Starting, "{stored:?} {observed:?}");
            let with_rm = decide(stored, true, &observed);
            assert_eq!(with_rm.vm, if vm == VmAction::End { VmAction::Kill } else { vm });
            let stays = stored == Running && observed == Alive;
            let told = !stays && stored != Starting && observed != Rebooted;
            assert_eq!(with_rm.record == RecordAction::Remove, !stays && !told, "{stored:?} {observed:?}");
            match with_rm.record {
                RecordAction::Leave(with) => {
                    assert!(told, "{stored:?} {observed:?}");
                    assert_eq!(with.map(|exit| exit.code), exit, "{stored:?} {observed:?}");
                }
                _ => assert!(!told, "{stored:?} {observed:?}"),
            }
        }
        for observed in [Nothing, Alive, Rebooted, dead(), killed()] {
            for auto_remove in [false, true] {
                assert_eq!(decide(Removing, auto_remove, &observed).record, RecordAction::Remove);
                assert_eq!(decide(Dead, auto_remove, &observed).record, RecordAction::Remove);
            }
        }
        assert_eq!(
            decide(Created, true, &Nothing),
            Decision { vm: VmAction::Nothing, record: RecordAction::Keep }
        );
    }

    /// Whatever is found, a second daemon that starts after the first one's decisions were carried out changes nothing more.
    #[test]
    fn decisions_are_final() {
        for stored in [Created, Starting, Running, Exited, Removing, Dead] {
            for observed in [Nothing, Alive, Rebooted, dead(), killed()] {
                let first = decide(stored, false, &observed);
                let state = match first.record {
                    RecordAction::Keep => stored,
                    RecordAction::Exited(_) => Exited,
                    RecordAction::Remove | RecordAction::Leave(_) => continue,
                };
                let left = if first.vm == VmAction::Reattach { Alive } else { Nothing };
                let second = decide(state, false, &left);
                assert_eq!(second.record, RecordAction::Keep);
                assert!(matches!(second.vm, VmAction::Nothing | VmAction::Reattach));
            }
        }
    }
}
