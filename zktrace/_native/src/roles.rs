//! What the user said about ports, and what was learned about listeners. `zktrace/stream/roles.py` is the reference.

use std::collections::HashMap;

use crate::events::Role;
use crate::ip::Ip;

/// Listeners remembered; an ensemble has a handful, a capture of many ensembles some hundreds.
const LISTENERS_MAX: usize = 4_096;

pub type Listener = (Ip, u16);
/// A port, on every address where the first part is None.
pub type Port = (Option<Ip>, u16);

/// Roles of listeners: given, learned, hinted.
#[derive(Default)]
pub struct Roles {
    given: Vec<(Role, Vec<Port>)>,
    learned: HashMap<Listener, Role>,
}

impl Roles {
    /// Roles as given on the command line; an empty list leaves that role to the bytes.
    pub fn new(client: Vec<Port>, quorum: Vec<Port>, election: Vec<Port>) -> Self {
        let given = [
            (Role::Client, client),
            (Role::Quorum, quorum),
            (Role::Election, election),
        ];
        Roles {
            given: given
                .into_iter()
                .filter(|(_, ports)| !ports.is_empty())
                .collect(),
            learned: HashMap::new(),
        }
    }

    /// Whether a listener may have this role by what the user gave.
    pub fn allowed(&self, role: Role, at: Listener) -> bool {
        match self.given.iter().find(|(given, _)| *given == role) {
            Some((_, ports)) => holds(ports, at),
            None => self.given_role(at).is_none_or(|given| given == role),
        }
    }

    fn given_role(&self, at: Listener) -> Option<Role> {
        let found = self.given.iter().find(|(_, ports)| holds(ports, at))?;
        Some(found.0)
    }

    /// Notes that a connection to this listener proved its role.
    pub fn learn(&mut self, role: Role, at: Listener) {
        if self.learned.len() < LISTENERS_MAX {
            self.learned.entry(at).or_insert(role);
        }
    }

    /// The role of a listener, given or learned.
    pub fn known(&self, at: Listener) -> Option<Role> {
        self.given_role(at)
            .or_else(|| self.learned.get(&at).copied())
    }

    /// As `known`, or the role that usually has this port.
    pub fn hinted(&self, at: Listener) -> Option<Role> {
        self.known(at).or(match at.1 {
            2181 => Some(Role::Client),
            2888 => Some(Role::Quorum),
            3888 => Some(Role::Election),
            _ => None,
        })
    }
}

fn holds(ports: &[Port], at: Listener) -> bool {
    ports
        .iter()
        .any(|(ip, port)| *port == at.1 && ip.is_none_or(|ip| ip == at.0))
}
