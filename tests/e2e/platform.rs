//! What the machine itself is made of, seen by Linux in it: `vial-vmm` alone, without launcher or daemon.

use serde_json::{Value, json};
use std::process::{Command, Stdio};
use vial_tests::bare::{Vmm, busybox, heard, part, script, write_script};
use vial_tests::fixtures;
use vial_tests::talk::until;

/// What a VM that ends by itself has said.
fn said(vmm: Vmm) -> String {
    let (status, said) = vmm.end();
    assert_eq!(status.code(), Some(0), "{said}");
    said
}

#[test]
fn debians_own_kernel_and_initrd_boot_from_debians_own_disk() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    let script = script(&["uname -r", "nproc", "mount|grep vda", "echo o>/proc/sysrq-trigger", "sleep 9"]);
    let text = said(Vmm::start(
        folder.path(),
        &json!({
            "boot-source": {
                "kernel_image_path": fixtures::folder().join("debian-cloud.vmlinuz"),
                "initrd_path": fixtures::folder().join("debian-cloud.initrd"),
                "boot_args": format!("console=ttyS0 quiet panic=-1 init=/vial-test {script}"),
            },
            "machine-config": {"vcpu_count": 2, "mem_size_mib": 256},
            "drives": [{
                "drive_id": "root",
                "path_on_host": fixtures::folder().join("debian-cloud.ext4"),
                "is_read_only": true,
                "is_root_device": true,
            }],
            "serial": {},
        }),
    ));
    assert!(text.contains("-cloud-amd64\n2\n/dev/vda on / type ext4 (ro"), "{text}");
}

#[test]
#[ignore = "takes minutes in an emulated host of one processor: VIAL_E2E_LONG=1 tools/test"]
fn thirty_two_vcpus_come_up() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    let text = said(Vmm::start(
        folder.path(),
        &json!({
            "boot-source": busybox(&["nproc", "poweroff -f"]),
            "machine-config": {"vcpu_count": 32, "mem_size_mib": 256},
            "vial": heard(folder.path()),
        }),
    ));
    assert_eq!(text.trim(), "32");
}

/// Memory of the VM's process of this kind, in MiB.
fn memory_mib(vm: &Vmm, kind: &str) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", vm.id());
    let text = std::fs::read_to_string(path).expect("the process lives");
    let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(':'));
    let words = line.expect("the kernel counts it").split_whitespace();
    let kib: u64 = words.clone().next().and_then(|word| word.parse().ok()).expect("a number");
    kib >> 10
}

fn resident_mib(vm: &Vmm) -> u64 {
    memory_mib(vm, "Pss")
}

/// A field of what the balloon tells of itself and of the guest.
fn balloon(vm: &Vmm, field: &str) -> u64 {
    let told: Value =
        serde_json::from_str(&vm.http("GET", "/balloon/statistics", "").body()).expect("it is JSON");
    told[field].as_u64().unwrap_or_default()
}

/// Ends a VM whose guest would go on.
fn stop(vm: Vmm) {
    vm.does(&json!({"action": "stop"}));
    assert_eq!(vm.end().0.code(), Some(13));
}

/// Pages of 2 MiB that the host has set aside, as many as there were before when this goes.
struct HugePages(String);

impl HugePages {
    const COUNT: &str = "/proc/sys/vm/nr_hugepages";

    fn set_aside(count: u64) -> Self {
        let before = std::fs::read_to_string(Self::COUNT).expect("the kernel has them");
        let aside = Self(before);
        std::fs::write(Self::COUNT, count.to_string()).expect("tests run as root");
        let now = std::fs::read_to_string(Self::COUNT).expect("as above");
        assert!(
            now.trim().parse::<u64>().expect("a number") >= count,
            "the host has {now} of {count} huge pages"
        );
        aside
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::COUNT, &self.0);
    }
}

/// What a guest does that keeps something while a balloon takes memory beside it.
const KEEP: &str = r#"
mount -t tmpfs none /tmp
dd if=/dev/urandom of=/tmp/kept bs=1M count=20 2>/dev/null
before=$(md5sum </tmp/kept)
echo @up $(awk '/^MemFree/ { print int($2 / 1024) }' /proc/meminfo)
until [ $(awk '/^MemFree/ { print int($2 / 1024) }' /proc/meminfo) -le 20 ]; do sleep 1; done
[ "$before" = "$(md5sum </tmp/kept)" ] && echo @whole
sleep 1000
"#;

#[test]
fn a_guest_lies_in_huge_pages_of_which_a_balloon_takes_no_parts() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    write_script(&folder.path().join("steps"), KEEP);
    let _aside = HugePages::set_aside(64);
    let mut vm = Vmm::start(
        folder.path(),
        &json!({
            "boot-source": busybox(&["sh /dev/vda"]),
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 128, "huge_pages": "2M"},
            "drives": [{"drive_id": "steps", "path_on_host": folder.path().join("steps"), "is_read_only": true}],
            "balloon": {"amount_mib": 0, "deflate_on_oom": false},
            "vial": heard(folder.path()),
        }),
    );
    let free: u64 = vm.says("@up").parse().expect("a number");
    // The kernel alone is 14 MiB, wherever it lies.
    assert!(memory_mib(&vm, "Private_Hugetlb") >= 34, "{} MiB", memory_mib(&vm, "Private_Hugetlb"));
    vm.http("PATCH", "/balloon", &json!({"amount_mib": free - 15}).to_string()).body();
    vm.says("@whole");
    stop(vm);
}

/// What a guest does that has had memory, and needs it again when its balloon grows.
const AGAIN: &str = r#"
total() { awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo; }
mount -t tmpfs -o size=230m none /tmp
dd if=/dev/zero of=/tmp/fill bs=1M count=120 2>/dev/null
rm /tmp/fill
before=$(total)
echo @free
until [ $(total) -le $((before - 10)) ]; do sleep 1; done
dd if=/dev/zero of=/tmp/need bs=1M count=120 2>/dev/null
echo @needed $(md5sum </tmp/need)
sleep 1000
"#;

#[test]
fn linux_names_what_is_free_when_it_is_asked_and_can_use_it_again() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    write_script(&folder.path().join("steps"), AGAIN);
    let mut vm = Vmm::start(
        folder.path(),
        &json!({
            "boot-source": busybox(&["sh /dev/vda"]),
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 256},
            "drives": [{"drive_id": "steps", "path_on_host": folder.path().join("steps"), "is_read_only": true}],
            "balloon": {"amount_mib": 0, "deflate_on_oom": false, "free_page_hinting": true},
            "vial": heard(folder.path()),
        }),
    );
    vm.says("@free");
    let filled = resident_mib(&vm);
    vm.http("PATCH", "/balloon/hinting/start", "{}").body();
    until("the guest has named all, and been told so", || {
        let told: Value =
            serde_json::from_str(&vm.http("GET", "/balloon/hinting/status", "").body()).expect("it is JSON");
        // 1 is the end of a run, for both.
        (told["host_cmd"] == 1 && told["guest_cmd"] != Value::Null).then_some(())
    });
    assert!(resident_mib(&vm) + 100 <= filled, "{} of {filled} MiB", resident_mib(&vm));
    vm.http("PATCH", "/balloon", r#"{"amount_mib":12}"#).body();
    // Of 120 MiB of zeroes.
    assert_eq!(vm.says("@needed"), "da5ec8fa14cec9cd479b5eadbac519d6 -");
    stop(vm);
}

/// What a guest does that has memory, gives it away, and needs it.
const NEED: &str = r#"
mount -t tmpfs -o size=230m none /tmp
dd if=/dev/zero of=/tmp/fill bs=1M count=100 2>/dev/null
echo @filled
rm /tmp/fill
until [ $(awk '/^MemFree/ { print int($2 / 1024) }' /proc/meminfo) -le 60 ]; do sleep 1; done
echo @inflated
dd if=/dev/zero of=/tmp/need bs=1M count=150 2>/dev/null
echo @needed $(wc -c </tmp/need)
sleep 1000
"#;

#[test]
fn a_balloon_tells_statistics_takes_what_is_reported_and_gives_way_in_need() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    write_script(&folder.path().join("steps"), NEED);
    let mut vm = Vmm::start(
        folder.path(),
        &json!({
            "boot-source": busybox(&["sh /dev/vda"]),
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 256},
            "drives": [{"drive_id": "steps", "path_on_host": folder.path().join("steps"), "is_read_only": true}],
            "balloon": {
                "amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1, "free_page_reporting": true,
            },
            "vial": heard(folder.path()),
        }),
    );
    vm.says("@filled");
    let filled = resident_mib(&vm);
    until("free pages go back to the host", || (resident_mib(&vm) + 80 <= filled).then_some(()));
    until("statistics come", || (balloon(&vm, "total_memory") >> 20 > 200).then_some(()));
    vm.http("PATCH", "/balloon", r#"{"amount_mib":170}"#).body();
    vm.says("@inflated");
    until("the balloon has its size", || (balloon(&vm, "actual_mib") == 170).then_some(()));
    assert_eq!(vm.says("@needed"), (150 << 20).to_string());
    assert!(balloon(&vm, "actual_mib") < 170);
    stop(vm);
}

/// Whether `part` is somewhere in `whole`.
fn memmem(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

/// What the guest does; it tells each step, and waits for what the host does next.
const STEPS: &str = r#"
echo region $(cat /sys/bus/nd/devices/region0/size)
mkdir /pmem && mount -t ext4 -o dax=always /dev/pmem0 /pmem && mount | grep pmem0
echo written-past-every-cache >/pmem/new
sync
umount /pmem
cat /sys/devices/system/cpu/cpu3/topology/thread_siblings_list
total() { awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo; }
before=$(total)
echo up $(nproc) $before
until dmesg | grep -q 'virtual machine fork'; do sleep 0.2; done
until [ $(total) -ge $((before + 256)) ]; do sleep 0.2; done
mount -t tmpfs none /tmp
dd if=/dev/zero of=/tmp/fill bs=1M count=150 2>/dev/null
rm /tmp/fill
echo plugged
until [ $(total) -le $((before + 256 - 140)) ]; do sleep 0.2; done
echo inflated
sleep 1000
"#;

#[test]
fn one_guest_sees_threads_of_cores_pmem_hotplug_balloon_and_that_it_is_a_copy() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("tree")).expect("the folder is writable");
    std::fs::write(at("tree/steps"), STEPS).expect("the folder is writable");
    let mut mke2fs = Command::new("mke2fs");
    let mke2fs =
        mke2fs.args(["-q", "-t", "ext4", "-b", "4096", "-d"]).args([at("tree"), at("steps")]).arg("32M");
    // It tells of each file all the same.
    let mke2fs = mke2fs.stdout(Stdio::null());
    assert!(mke2fs.status().expect("e2fsprogs is installed").success());
    std::fs::copy(at("steps"), at("pmem")).expect("the folder is writable");
    let script = script(&["mkdir /mnt", "mount -t ext4 /dev/vda /mnt", "sh /mnt/steps"]);
    let mut vm = Vmm::start(
        folder.path(),
        &json!({
            "boot-source": {
                "kernel_image_path": part("vmlinux"),
                "initrd_path": fixtures::busybox_initrd(),
                "boot_args": format!("console=hvc0 panic=-1 memhp_default_state=online_movable {script}"),
            },
            "machine-config": {"vcpu_count": 4, "mem_size_mib": 256, "smt": true},
            "drives": [{"drive_id": "steps", "path_on_host": at("steps")}],
            "pmem": [{"id": "p", "path_on_host": at("pmem")}],
            "memory-hotplug": {"total_size_mib": 512},
            "balloon": {"amount_mib": 0, "deflate_on_oom": false},
            "vial": heard(folder.path()),
        }),
    );
    vm.says("up 4 ");
    assert!(vm.seen.contains("region 33554432"), "{}", vm.seen);
    assert!(vm.seen.contains("/dev/pmem0 on /pmem type ext4 (rw,relatime,dax=always)"), "{}", vm.seen);
    let pmem = std::fs::read(at("pmem")).expect("it is a file");
    assert!(memmem(&pmem, b"written-past-every-cache"), "what the guest wrote is not in the file");
    assert!(vm.seen.lines().any(|line| line == "2-3"), "{}", vm.seen);
    vm.does(&json!({"action": "new_generation"}));
    vm.does(&json!({"action": "hotplug_memory", "requested_size_mib": 256}));
    vm.says("plugged");
    let filled = resident_mib(&vm);
    vm.does(&json!({"action": "balloon", "amount_mib": 150}));
    vm.says("inflated");
    let given = resident_mib(&vm);
    assert!(given + 80 <= filled, "{filled} MiB before the balloon, {given} MiB after it");
    stop(vm);
}
