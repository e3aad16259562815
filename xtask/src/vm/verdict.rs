//! What the guest saw against what it should have seen; the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// SYNs that `guest.sh` sends from inside the allowed CIDRs and from outside them, both families.
const ALLOWED: u64 = 7 + 3;
const DENIED: u64 = 5 + 2;
/// Allowed SYNs once more, after the interface was removed and made again.
const AGAIN: u64 = 2;

const MODES: [&str; 4] = ["auto", "tc", "xdp-native", "xdp-generic"];
const USERS: [(&str, &str); 2] =
    [("root", "root"), ("user", "user with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON")];
/// Who is short of what, and the word by which the refusal names it.
const SHORT: [(&str, &str, &str); 4] = [
    ("without-bpf", "without CAP_BPF", "CAP_BPF"),
    ("without-net_admin", "without CAP_NET_ADMIN", "CAP_NET_ADMIN"),
    ("without-perfmon", "without CAP_PERFMON", "CAP_PERFMON"),
    (MEMLOCK, "with all three, RLIMIT_MEMLOCK 64 KiB", "RLIMIT_MEMLOCK"),
];
const MEMLOCK: &str = "with-64-KiB-memlock";
/// Connections that `guest.sh` makes to a target short of rights.
const CONNECTIONS: &str = "2";

/// The lines of one kernel, by who, mode and key.
struct Seen(BTreeMap<(String, String, String), String>);

impl Seen {
    fn read(console: &str) -> Self {
        let lines = console.lines().filter_map(|line| {
            let mut words = line.trim_end().strip_prefix("@ ")?.splitn(4, ' ');
            let key = (words.next()?.to_owned(), words.next()?.to_owned(), words.next()?.to_owned());
            Some((key, words.next().unwrap_or_default().trim().to_owned()))
        });
        Self(lines.collect())
    }

    fn get(&self, who: &str, mode: &str, key: &str) -> &str {
        self.0.get(&(who.to_owned(), mode.to_owned(), key.to_owned())).map_or("", String::as_str)
    }
}

/// One row: a kernel, a user, a mode.
struct Row {
    cells: Vec<String>,
    well: bool,
}

/// Everything that was seen.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Row>,
    refusals: Vec<Row>,
    clocks: Vec<Row>,
    missing: Vec<String>,
}

impl Table {
    /// A kernel that no source offers.
    pub(super) fn not_to_be_had(&mut self, series: &str) {
        self.missing.push(series.to_owned());
    }

    /// Judges one kernel's console.
    pub(super) fn add(&mut self, release: &str, console: &str) {
        let seen = Seen::read(console);
        for (who, user) in USERS {
            for mode in MODES {
                self.rows.push(row(release, &seen, (who, user), mode));
            }
        }
        self.clocks.push(clock_row(release, &seen));
        for short in SHORT {
            self.refusals.push(short_row(release, &seen, short));
        }
    }

    pub(super) fn all_well(&self) -> bool {
        self.missing.is_empty()
            && self.rows.iter().chain(&self.refusals).chain(&self.clocks).all(|row| row.well)
    }

    pub(super) fn markdown(&self) -> String {
        let mut text = String::from(
            "| kernel | user | `--ebpf-attach` | in force | allowed, denied SYNs | capabilities kept | interface made again | \
             after SIGTERM | after SIGKILL | next start | result |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        write_rows(&mut text, &self.rows);
        text.push_str(
            "\n| kernel | rights | `--ebpf=required` | plain `--ebpf` | result |\n|---|---|---|---|---|\n",
        );
        write_rows(&mut text, &self.refusals);
        text.push_str("\n| kernel | a watch of 6 s while CLOCK_REALTIME steps by +1 h, -2 h, +1 h | result |\n|---|---|---|\n");
        write_rows(&mut text, &self.clocks);
        for series in &self.missing {
            let _ = writeln!(text, "\nNot to be had from this machine's sources: Linux {series}.");
        }
        text
    }

    /// The page for the documentation.
    pub(super) fn page(&self) -> String {
        format!(
            "# Kernels\n\nWritten by `cargo xtask test vm --write`: the static program in a virtual machine with Debian's kernels, \
             observing one veth with `--ebpf=required` while {ALLOWED} SYNs come from inside the allowed CIDRs and {DENIED} \
             from outside them. Then the interface is removed and made again, with {AGAIN} SYNs more for a target that has \
             dropped its rights.\nThe columns *after* tell how many of the program's BPF programs the kernel still holds; \
             *next start* how many filters of ours are then at the interface.\n\n{}",
            self.markdown()
        )
    }
}

fn write_rows(text: &mut String, rows: &[Row]) {
    for row in rows {
        let _ = writeln!(text, "| {} |", row.cells.join(" | "));
    }
}

/// Ticks of the watch: 6 s at the default interval.
const TICKS: u64 = 120;

/// Whether no duration of the client's was touched: every tick was kept or counted, and nothing took an hour.
fn clock_row(release: &str, seen: &Seen) -> Row {
    let get = |key| seen.get("client", "clock", key);
    let document: Value = serde_json::from_str(get("document")).unwrap_or_default();
    let probes = &document["probes"];
    let count = |name: &str| probes[name].as_u64().unwrap_or(0);
    let ticks = count("sent") + count("skipped_ticks");
    let longest = ["connect_seconds", "tick_lateness_seconds"].map(|of| document[of]["max"].as_f64());
    let longest = longest.into_iter().flatten().fold(0.0, f64::max);
    let disruptions = document["disruptions_total"].as_u64();
    let well = get("stepped") == "3600"
        && get("exit") == "0"
        && ticks.abs_diff(TICKS) <= 3
        && disruptions == Some(0)
        && longest < 60.0;
    let told = format!(
        "{} probes and {} skipped ticks of {TICKS}, {disruptions:?} disruptions, nothing longer than {longest:.3} s",
        count("sent"),
        count("skipped_ticks"),
    );
    let told = told.replace("Some(", "").replace(')', "");
    Row { cells: vec![release.to_owned(), told, if well { "ok" } else { "WRONG" }.to_owned()], well }
}

/// Short of a right or a resource: refused in words that name it where the kernel side is required, and served in userspace
/// after one warning where it is not.
fn short_row(release: &str, seen: &Seen, (who, rights, named): (&str, &str, &str)) -> Row {
    let [required, auto] = ["required", "auto"].map(|mode| move |key| seen.get(who, mode, key));
    let (words, warning) = (required("words"), auto("warning"));
    let served = auto("pongs") == CONNECTIONS && auto("accepted") == CONNECTIONS && auto("ended") == "0";
    // The limit counts before 5.11 only.
    let enough = who == MEMLOCK && numbers(release) >= (5, 11);
    let well = served
        && if enough {
            required("exit") == "0"
                && auto("warned") == "0"
                && auto("in_force") == expected_mode(release, "auto")
        } else {
            // In front of what to do, which names all three.
            let says = |words: &str| words.split(';').next().is_some_and(|what| what.contains(named));
            let refused = required("exit") == "1" && says(words);
            refused && auto("warned") == "1" && says(warning) && auto("in_force") == "userspace"
        };
    let refusal = if enough { "runs".into() } else { format!("exit {}: {words}", required("exit")) };
    let fallback = format!("{}, {} warnings, {} pongs", auto("in_force"), auto("warned"), auto("pongs"));
    let result = if well { "ok" } else { "WRONG" };
    let cells = vec![
        release.into(),
        rights.into(),
        refusal,
        fallback.replace("1 warnings", "1 warning"),
        result.into(),
    ];
    Row { cells, well }
}

fn row(release: &str, seen: &Seen, (who, user): (&str, &str), mode: &str) -> Row {
    let get = |key| seen.get(who, mode, key);
    let (in_force, counts) = (get("mode"), counts(get("sources")));
    let clsact = in_force == "clsact";
    let mut faults = Vec::new();
    let mut expect = |what: &str, holds: bool| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    expect("mode", in_force == expected_mode(release, mode));
    // Root has become nobody.
    expect("user", get("uid") == if who == "root" { "65534" } else { "1000" });
    expect("counts", counts == Some((ALLOWED, DENIED)));
    expect("capabilities", kept(get("capabilities")) == expected_capabilities(release, clsact));
    expect("exit", get("exit") == "0");
    let again = (get("again"), self::counts(get("sources_again")));
    expect("interface gone", get("gone") == "1");
    expect("interface made again", again == (in_force, Some((AGAIN, 0))));
    expect("held while running", get("held_running").parse().is_ok_and(|held: u32| held > 0));
    expect("held after SIGTERM", get("held_after_term") == "0");
    // Only a filter outlives a killed owner, until the next start.
    expect("held after SIGKILL", (get("held_after_kill") == "0") != clsact);
    expect("filter after SIGKILL", get("filters_after_kill") == if clsact { "1" } else { "0" });
    expect("filters after the next start", get("filters_after_restart") == if clsact { "1" } else { "0" });
    expect("held at the end", get("held_at_end") == "0");
    let result = match (get("failed"), faults.is_empty()) {
        ("", true) => "ok".to_owned(),
        ("", false) => format!("**not as expected: {}**", faults.join(", ")),
        (words, _) => format!("**failed: {}**", words.replace('|', "/")),
    };
    Row {
        well: result == "ok",
        cells: vec![
            release.to_owned(),
            user.to_owned(),
            mode.to_owned(),
            in_force.to_owned(),
            counts.map_or(String::new(), |(allowed, denied)| format!("{allowed}, {denied}")),
            kept(get("capabilities")),
            again.1.map_or(String::new(), |(allowed, _)| format!("{}, {allowed} SYNs", again.0)),
            get("held_after_term").to_owned(),
            get("held_after_kill").to_owned(),
            get("filters_after_restart").to_owned(),
            result,
        ],
    }
}

fn expected_mode(release: &str, mode: &str) -> &'static str {
    match mode {
        "xdp-native" => "xdp-native",
        "xdp-generic" => "xdp-generic",
        _ if numbers(release) >= (6, 6) => "tcx",
        _ => "clsact",
    }
}

/// Design section 5: none with links from 5.19 on; before it CAP_BPF for reading maps; for a filter, CAP_NET_ADMIN.
fn expected_capabilities(release: &str, clsact: bool) -> String {
    match (numbers(release) >= (5, 19), clsact) {
        (true, false) => "none",
        (true, true) => "NET_ADMIN",
        (false, _) => "NET_ADMIN, BPF",
    }
    .to_owned()
}

fn numbers(release: &str) -> (u32, u32) {
    let mut parts = release.split(['.', '-']).map_while(|part| part.parse().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Names of the capabilities in the masks of all threads; more than one mask if threads differ.
fn kept(masks: &str) -> String {
    let name = |mask: &str| {
        let Ok(bits) = u64::from_str_radix(mask, 16) else { return mask.to_owned() };
        // linux/capability.h
        let names: Vec<_> = [(12, "NET_ADMIN"), (38, "PERFMON"), (39, "BPF")]
            .into_iter()
            .filter_map(|(bit, name)| (bits & (1 << bit) != 0).then_some(name))
            .collect();
        let known = (1 << 12) | (1 << 38) | (1 << 39);
        match (bits & !known, names.is_empty()) {
            (0, true) => "none".to_owned(),
            (0, false) => names.join(", "),
            _ => format!("{bits:#x}"),
        }
    };
    masks.split_whitespace().map(name).collect::<Vec<_>>().join(" / ")
}

/// Allowed and denied SYNs by class totals, if the ledger by source agrees with them and nothing was lost.
fn counts(sources: &str) -> Option<(u64, u64)> {
    let page: Value = serde_json::from_str(sources).ok()?;
    let kernel = page.get("kernel")?;
    let total = |key: &str| kernel.get(key)?.as_u64();
    let of = |class: &str| -> Option<u64> {
        let list = kernel.get("sources")?.as_array()?;
        list.iter().filter(|s| s["class"] == class).map(|s| s["syns"].as_u64()).sum()
    };
    let counts = (total("allowed_syns")?, total("denied_syns")?);
    (counts == (of("allowed")?, of("denied")?) && total("events_lost") == Some(0)).then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_named_and_unexpected_ones_are_shown_as_a_mask() {
        assert_eq!(kept("0000000000000000"), "none");
        assert_eq!(kept("0000008000001000"), "NET_ADMIN, BPF");
        assert_eq!(kept("0000000000000000 0000000000001000"), "none / NET_ADMIN");
        assert_eq!(kept("0000000000000001"), "0x1");
    }

    #[test]
    fn tcx_is_expected_from_6_6_on_and_clsact_before() {
        assert_eq!(expected_mode("6.12.117+deb12-cloud-amd64", "auto"), "tcx");
        assert_eq!(expected_mode("6.1.0-56-cloud-amd64", "tc"), "clsact");
        assert_eq!(expected_mode("5.10.0-46-cloud-amd64", "xdp-native"), "xdp-native");
    }

    #[test]
    fn counts_stand_only_if_the_ledger_by_source_agrees() {
        let page = |syns: u64| {
            format!(
                r#"{{"kernel":{{"allowed_syns":10,"denied_syns":0,"events_lost":0,
                    "sources":[{{"address":"203.0.113.9","class":"allowed","syns":{syns}}}]}}}}"#
            )
        };
        assert_eq!(counts(&page(10)), Some((10, 0)));
        assert_eq!(counts(&page(9)), None);
        assert_eq!(counts("wget: timed out"), None);
    }

    #[test]
    fn a_kernel_that_says_nothing_fails() {
        let mut table = Table::default();
        table.add("6.1.0-56-cloud-amd64", "Kernel panic - not syncing\n");
        assert!(!table.all_well());
    }
}
