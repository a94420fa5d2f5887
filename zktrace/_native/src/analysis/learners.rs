//! What each learner's connection shows of writes: how long ACKs took, and the network's part of that.
//! `zktrace/analysis/writereport.py` is the reference.

use super::columns::{Role, NONE};
use super::value::Value;
use super::writereport::WriteReport;

impl WriteReport<'_> {
    pub fn learners(&self) -> Value {
        let join = &self.join;
        let d = &join.deliveries;
        let mut made = vec![0i64; join.peers.len()];
        for path in &self.paths.all {
            if let Ok(acker) = usize::try_from(path.acker) {
                made[d.peer[acker] as usize] += 1;
            }
        }
        let rows = join.peers.iter().enumerate().map(|(number, peer)| {
            let (mut proposals, mut acks, mut commits) = (0, 0, 0);
            let (mut took, mut network, mut disk) = (Vec::new(), Vec::new(), Vec::new());
            for at in d.start[number] as usize..d.start[number + 1] as usize {
                if d.syncing[at] {
                    continue;
                }
                let seen = join.seen(at);
                proposals += i64::from(seen.proposal != NONE);
                acks += i64::from(seen.ack != NONE);
                commits += i64::from(seen.told != NONE);
                if seen.proposal == NONE || seen.ack == NONE {
                    continue;
                }
                let whole = seen.ack.wrapping_sub(seen.proposal);
                took.push(whole);
                let way = self.paths.network[at];
                if way != NONE {
                    network.push(way);
                    disk.push(whole.wrapping_sub(way));
                }
            }
            // Observers acknowledge nothing.
            let follows = peer.role == Some(Role::Follower);
            let told = |values: &[i64]| match follows {
                true => self.spread_of(values),
                false => Value::None,
            };
            let pings: Vec<i64> = self.paths.pings[number].iter().map(|trip| trip.1).collect();
            Value::Map(vec![
                ("sid", Value::some(peer.sid, Value::Int)),
                ("learner", Value::text(self.address(peer.learner))),
                ("leader", Value::text(self.address(peer.leader))),
                (
                    "role",
                    Value::some(peer.role, |role| Value::Name(role.name())),
                ),
                ("proposals", Value::Int(proposals)),
                ("acks", Value::Int(acks)),
                ("commits", Value::Int(commits)),
                ("made_quorum", Value::Int(made[number])),
                ("ack_us", told(&took)),
                ("network_us", told(&network)),
                ("disk_us", told(&disk)),
                ("ping_us", self.spread_of(&pings)),
            ])
        });
        Value::List(rows.collect())
    }
}
