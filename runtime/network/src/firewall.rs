//! Beside other firewalls. An accept in our table does not undo a drop in another one: packets that Docker's, ufw's or firewalld's rules drop are
//! gone. So each is told, in its own words and where it keeps its administrator's wishes, to let pods' packets through; and what was inserted is
//! noted, and taken out again. What an administrator wrote by hand is not touched: `vial doctor` says what to add.

use crate::NetworkError;
use crate::address::Pool;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// Seconds that iptables waits for another iptables.
const WAIT: &str = "5";

/// One firewall's program and what it is to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insertion {
    /// Arguments that ask whether it is there; nothing if the program takes it twice without harm.
    pub check: Option<Vec<String>>,
    /// Arguments that insert it, the program first.
    pub insert: Vec<String>,
    /// Arguments that take it out.
    pub remove: Vec<String>,
}

/// What is seen of the other firewalls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// What `iptables -S` prints of the filter table.
    pub v4: Option<String>,
    /// What `ip6tables -S` prints.
    pub v6: Option<String>,
    /// firewalld's table is loaded.
    pub firewalld: bool,
}

/// What must be inserted. `name` marks the rules as one daemon's.
pub fn plan(seen: &Seen, pool: &Pool, name: &str) -> Vec<Insertion> {
    let mut plan = Vec::new();
    for (program, rules, gateway) in [
        ("iptables", &seen.v4, pool.gateway4().to_string()),
        ("ip6tables", &seen.v6, pool.gateway6().to_string()),
    ] {
        let Some(rules) = rules else { continue };
        if drops(rules, "FORWARD") {
            // Docker looks there first, and leaves it to the administrator.
            let chain =
                if rules.lines().any(|line| line == "-N DOCKER-USER") { "DOCKER-USER" } else { "FORWARD" };
            plan.push(rule(program, chain, &["-i", "vial+"], name));
            plan.push(rule(program, chain, &["-o", "vial+"], name));
        }
        if drops(rules, "INPUT") {
            for protocol in ["udp", "tcp"] {
                let words = ["-i", "vial+", "-d", &gateway, "-p", protocol, "--dport", "53"];
                plan.push(rule(program, "INPUT", &words, name));
            }
        }
    }
    if seen.firewalld {
        for source in [pool.v4.to_string(), pool.v6.to_string()] {
            let words = |verb: &str| {
                ["firewall-cmd", "--quiet", "--zone=trusted", &format!("--{verb}-source={source}")]
                    .map(str::to_owned)
                    .to_vec()
            };
            plan.push(Insertion {
                check: Some(words("query")),
                insert: words("add"),
                remove: words("remove"),
            });
        }
    }
    plan
}

fn rule(program: &str, chain: &str, words: &[&str], name: &str) -> Insertion {
    let line = |verb: &str| -> Vec<String> {
        [program, "-w", WAIT, verb, chain]
            .into_iter()
            .chain(words.iter().copied())
            .chain(["-m", "comment", "--comment", name, "-j", "ACCEPT"])
            .map(str::to_owned)
            .collect()
    };
    Insertion { check: Some(line("-C")), insert: line("-I"), remove: line("-D") }
}

/// Whether a chain drops what none of its rules accepts: by its policy, or by a last rule for everything.
fn drops(rules: &str, chain: &str) -> bool {
    let policy = format!("-P {chain} DROP");
    let verdicts = ["DROP", "REJECT"].map(|verdict| format!("-A {chain} -j {verdict}"));
    rules.lines().any(|line| {
        line == policy
            || verdicts.iter().any(|begin| {
                line.strip_prefix(begin.as_str()).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            })
    })
}

/// Looks at the other firewalls.
pub async fn look() -> Seen {
    let chains = output(&["nft", "list", "chains"]).await.unwrap_or_default();
    let legacy = |names: &str| {
        fs::read_to_string(Path::new("/proc/net").join(names))
            .is_ok_and(|text| text.lines().any(|l| l == "filter"))
    };
    // Asking iptables where nobody uses it would load its modules.
    let (nft4, nft6) = (has_filter(&chains, "ip"), has_filter(&chains, "ip6"));
    let v4 =
        if nft4 || legacy("ip_tables_names") { output(&["iptables", "-w", WAIT, "-S"]).await } else { None };
    let v6 = if nft6 || legacy("ip6_tables_names") {
        output(&["ip6tables", "-w", WAIT, "-S"]).await
    } else {
        None
    };
    Seen { v4, v6, firewalld: chains.lines().any(|line| line.trim() == "table inet firewalld {") }
}

fn has_filter(chains: &str, family: &str) -> bool {
    let table = format!("table {family} filter {{");
    chains.lines().any(|line| line.trim() == table)
}

/// What was inserted, as a note: one removal a line.
#[derive(Debug)]
pub struct Insertions {
    note: PathBuf,
}

impl Insertions {
    /// With the note in this folder.
    pub fn new(run: &Path) -> Self {
        Self { note: run.join("firewall") }
    }

    /// Inserts what is missing. What can't be is logged: pods without a way out are better than none.
    ///
    /// # Errors
    /// When the note can't be written; nothing was inserted then.
    pub async fn insert(&self, plan: &[Insertion]) -> Result<(), NetworkError> {
        let mut noted = fs::read_to_string(&self.note).unwrap_or_default();
        for insertion in plan {
            if let Some(check) = &insertion.check
                && succeeds(check).await
            {
                continue;
            }
            let line = insertion.remove.join(" ");
            if !noted.lines().any(|known| known == line) {
                noted.push_str(&line);
                noted.push('\n');
                fs::write(&self.note, &noted)
                    .map_err(NetworkError::system("note which firewall rules are inserted"))?;
            }
            if succeeds(&insertion.insert).await {
                tracing::info!(rule = insertion.insert.join(" "), "a firewall lets pods' packets through");
            } else {
                tracing::warn!(
                    rule = insertion.insert.join(" "),
                    "a firewall that drops pods' packets can't be told to let them through"
                );
            }
        }
        Ok(())
    }

    /// Takes everything out again.
    pub async fn remove(&self) {
        let Ok(noted) = fs::read_to_string(&self.note) else { return };
        for line in noted.lines() {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            // Another program may have flushed it.
            succeeds(&words).await;
        }
        let _ = fs::remove_file(&self.note);
    }
}

fn command(words: &[impl AsRef<str>]) -> Option<Command> {
    let (program, arguments) = words.split_first()?;
    // Not everybody's PATH has the folders of the system's tools.
    let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let program =
        places.iter().map(|place| Path::new(place).join(program.as_ref())).find(|path| path.exists())?;
    let mut command = Command::new(program);
    command
        .args(arguments.iter().map(AsRef::as_ref))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    Some(command)
}

async fn output(words: &[&str]) -> Option<String> {
    let output = command(words)?.output().await.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn succeeds(words: &[String]) -> bool {
    let Some(mut command) = command(words) else { return false };
    command.stdout(Stdio::null()).status().await.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(v4: &str) -> Vec<String> {
        let pool = Pool::new("10.77.0.0/16".parse().unwrap(), "machine");
        let seen = Seen { v4: Some(v4.into()), ..Seen::default() };
        plan(&seen, &pool, "vial").iter().map(|insertion| insertion.insert.join(" ")).collect()
    }

    #[test]
    fn docker_is_told_where_it_looks_first() {
        let plan = lines("-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n");
        assert_eq!(
            plan,
            [
                "iptables -w 5 -I DOCKER-USER -i vial+ -m comment --comment vial -j ACCEPT",
                "iptables -w 5 -I DOCKER-USER -o vial+ -m comment --comment vial -j ACCEPT",
            ]
        );
    }

    #[test]
    fn ufw_drops_questions_to_the_gateway_too() {
        let plan = lines("-P INPUT DROP\n-P FORWARD DROP\n-A FORWARD -j ufw-before-forward\n");
        assert_eq!(plan.len(), 4);
        assert!(plan[0].contains("-I FORWARD -i vial+"));
        assert!(plan[2].contains("-I INPUT -i vial+ -d 10.77.0.1 -p udp --dport 53"));
    }

    #[test]
    fn a_last_rule_counts_as_a_policy() {
        assert!(drops(
            "-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n",
            "FORWARD"
        ));
        assert!(drops("-A FORWARD -j DROP\n", "FORWARD"));
        assert!(!drops(
            "-P FORWARD ACCEPT\n-A FORWARD -s 10.0.0.0/8 -j DROP\n-A FORWARD -j DROPLOG\n",
            "FORWARD"
        ));
        assert_eq!(lines("-P FORWARD ACCEPT\n-P INPUT ACCEPT\n"), [] as [&str; 0]);
    }

    #[test]
    fn firewalld_trusts_the_pool() {
        let pool = Pool::new("10.77.0.0/16".parse().unwrap(), "machine");
        let plan = plan(&Seen { firewalld: true, ..Seen::default() }, &pool, "vial");
        assert_eq!(plan[0].insert.join(" "), "firewall-cmd --quiet --zone=trusted --add-source=10.77.0.0/16");
        assert_eq!(plan[0].remove[3], "--remove-source=10.77.0.0/16");
    }
}
