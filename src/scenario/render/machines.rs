//! What links and clocks are like before anything happens to them.

use super::{flag, line, pair, quantity, quoted, time};
use crate::scenario::{ClockSetting, LinkSetting, Links};
use crate::world::sim::LinkModel;

/// The keys of `[cluster]` about every link.
pub(super) fn every_link(out: &mut String, link: &LinkModel) {
    let default = LinkModel::default();
    let LinkModel { latency, jitter, bandwidth, loss } = *link;
    if latency != default.latency {
        pair(out, "latency", &quoted(&quantity::latency(latency)));
    }
    if jitter != default.jitter {
        time(out, "jitter", jitter);
    }
    if let Some(bandwidth) = bandwidth {
        pair(out, "bandwidth", &quoted(&quantity::bandwidth(bandwidth)));
    }
    if loss != default.loss {
        pair(out, "loss", &quoted(&quantity::share(loss)));
    }
}

pub(super) fn link(out: &mut String, setting: &LinkSetting) {
    let LinkSetting { links, latency, jitter, bandwidth, loss } = setting;
    line(out, format_args!("\n[[link]]"));
    self::links(out, links);
    if let Some(latency) = latency {
        pair(out, "latency", &quoted(&quantity::latency(*latency)));
    }
    if let Some(jitter) = jitter {
        time(out, "jitter", *jitter);
    }
    if let Some(bandwidth) = bandwidth {
        pair(out, "bandwidth", &quoted(&quantity::bandwidth(*bandwidth)));
    }
    if let Some(loss) = loss {
        pair(out, "loss", &quoted(&quantity::share(*loss)));
    }
}

/// `from`, `to` and `both-ways`.
pub(super) fn links(out: &mut String, links: &Links) {
    let Links { from, to, both_ways } = links;
    pair(out, "from", &quoted(&from.to_string()));
    pair(out, "to", &quoted(&to.to_string()));
    flag(out, "both-ways", *both_ways);
}

pub(super) fn clock(out: &mut String, setting: &ClockSetting) {
    let ClockSetting { target, offset_ns, drift_ppm } = setting;
    line(out, format_args!("\n[[clock]]"));
    pair(out, "target", &quoted(&target.to_string()));
    if *offset_ns != 0 {
        pair(out, "offset", &quoted(&quantity::shift(*offset_ns)));
    }
    if *drift_ppm != 0 {
        pair(out, "drift", &quoted(&quantity::drift(*drift_ppm)));
    }
}
