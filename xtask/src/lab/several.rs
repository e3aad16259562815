//! Whether what a watching client says of several gateways agrees with what was done: partial outages, and the egress IPs by which
//! its pongs came. Pure: values in, values out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use egw_probe::document::disruption::{LengthBracket, PartialOutage, wilson};
use egw_probe::document::result::ResultDocument;

use super::clock::Monotonic;
use super::disturbance::Disturb;
use super::judgement::{Done, Judgement};
use super::options::{Plan, Scenario};

/// Packets on the wire of which a probe needs each: SYN, SYN-ACK, ACK and the reply. What is sent again comes too late.
const PACKETS: i32 = 4;
/// A 95 % interval misses the true rate once in 20 runs, one of four standard deviations once in 16,000.
const CAUTION: f64 = 4.0;

/// A claim: where one gateway of several was dead, its three brackets contain what was recorded; else there was no such outage.
pub(crate) fn judge_partial(plan: &Plan, done: &Done, watched: &ResultDocument, judgement: &mut Judgement) {
    let told: Vec<&PartialOutage> = watched.partial_outages.iter().flatten().collect();
    let wanted = usize::from(plan.scenario == Scenario::Gateways);
    if wanted == 0 && plan.scenario != Scenario::Steady {
        // A full outage has an edge, at which some are lost and some are not.
        for outage in told {
            judgement.claim("a partial outage", outage.length_seconds, [0.0, done.length()[1]]);
        }
        return;
    }
    judgement.expect(told.len() == wanted, || {
        format!("{} partial outages are told where there was {wanted}: {told:?}", told.len())
    });
    let since_start = |ends: [Monotonic; 2]| ends.map(|end| end.seconds_since(Monotonic::start_of(watched)));
    for outage in told.into_iter().take(wanted) {
        judgement.contain("it began", outage.began_seconds, since_start(done.begin));
        judgement.contain("it ended", outage.ended_seconds, since_start(done.end));
        judgement.contain("it lasted", outage.length_seconds, done.length());
        let LengthBracket { lower, upper } = outage.length_seconds;
        judgement.width_seconds = upper.map(|upper| upper - lower);
        judgement.over_seconds = upper.map(|upper| upper - done.length()[1]);
    }
}

/// A claim: the rate of loss is what was made of it.
pub(crate) fn judge_loss(plan: &Plan, watched: &ResultDocument, judgement: &mut Judgement) {
    if plan.scenario != Scenario::Steady || plan.disturb != [Disturb::Loss] {
        return;
    }
    let Some(loss) = &watched.loss else { return };
    let rate = 1.0 - (1.0 - f64::from(plan.loss_percent) / 100.0).powi(PACKETS);
    judgement.true_loss_inside = Some((loss.isolated.low..=loss.isolated.high).contains(&rate));
    let (low, high) = wilson(loss.isolated.misses, loss.probes, CAUTION);
    judgement.expect((low..=high).contains(&rate), || {
        format!("of the probes {rate:.4} are lost by chance, not {low:.4} to {high:.4}")
    });
}

/// The egress IPs: each gateway's appears once, after another one; the dead one's may return. After a failover to a gateway that
/// has its own there is one more.
pub(crate) fn judge_egress(plan: &Plan, watched: &ResultDocument, judgement: &mut Judgement) {
    let has_own = |number| number == 1 || !plan.same_ip;
    let all: Vec<IpAddr> = (1..=plan.gateways)
        .filter(|number| has_own(*number))
        .map(|number| plan.family.egress(number))
        .collect();
    let mut listed: Vec<IpAddr> = watched.egress_ips.iter().map(|ip| ip.address).collect();
    let first_to_last = listed.clone();
    listed.sort_unstable();
    judgement.expect(listed == all, || format!("egress IPs {listed:?}, not {all:?}"));
    let came: Vec<IpAddr> = watched.egress_changes.iter().map(|change| change.to).collect();
    let expected = first_to_last.get(1..).unwrap_or_default();
    let returned = came.strip_prefix(expected);
    let may_return: &[IpAddr] = if plan.scenario == Scenario::Gateways { &all[..1] } else { &[] };
    judgement.expect(returned.is_some_and(|returned| returned.is_empty() || returned == may_return), || {
        format!("egress IPs came as {came:?}, not as {expected:?}, then {may_return:?} again or not")
    });
}

/// What is wrong with the shares of egress IPs, of so many connections that the target counted of each meanwhile. It counts
/// held connections, too, and what was under way when the client ended.
pub(crate) fn shares_fault(
    plan: &Plan,
    watched: &ResultDocument,
    before: &BTreeMap<IpAddr, u64>,
    after: &BTreeMap<IpAddr, u64>,
) -> Option<String> {
    let pongs: BTreeMap<IpAddr, u64> = watched.egress_ips.iter().map(|ip| (ip.address, ip.pongs)).collect();
    let counted: BTreeMap<IpAddr, u64> = after
        .iter()
        .map(|(address, count)| (*address, count - before.get(address).unwrap_or(&0)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let total: u64 = pongs.values().sum();
    let surplus = counted.values().sum::<u64>().wrapping_sub(total);
    let fits = |(address, count): (&IpAddr, &u64)| pongs.get(address).is_some_and(|pongs| pongs <= count);
    let shares_are_right = watched.egress_ips.iter().all(|ip| {
        // JSON may cost the last bit.
        (ip.pongs as f64 / total as f64 - ip.share).abs() < 1e-9
    });
    let right = shares_are_right
        && pongs.len() == counted.len()
        && counted.iter().all(fits)
        && surplus <= watched.probes.unsettled + u64::from(plan.hold);
    (!right).then(|| format!("egress IPs have pongs {pongs:?}, and the target counted {counted:?}"))
}

/// What a client warned of in its log though nothing happened. That the host holds it up, and that the lab gives it root and no
/// capability, is another matter.
pub(crate) fn warnings(log: &str) -> Vec<&str> {
    let of_its_host = |line: &&str| line.contains("weak numbers") || line.contains("still root");
    log.lines().filter(|line| line.contains("WARN") && !of_its_host(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_found_and_that_the_host_is_slow_is_none() {
        let log = "a  INFO masqueraded\nb  WARN disruption began\nc  WARN still root\nd  WARN weak numbers: ticks came late\n";
        assert_eq!(warnings(log), ["b  WARN disruption began"]);
    }
}
