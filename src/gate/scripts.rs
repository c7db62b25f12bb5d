//! Assembles the gate's scripts from their files. `common.lua` precedes each operation that reads a breaker,
//! `limits.lua` each one that reads limits; `settle_and_admit.lua` also needs its parts `settle.lua` and `admit.lua`.

use crate::script::Script;

/// One script an operation.
#[derive(Debug)]
pub(super) struct GateScripts {
    pub(super) turn: Script,
    pub(super) room: Script,
    pub(super) renew: Script,
    pub(super) control: Script,
    pub(super) presence: Script,
}

impl GateScripts {
    pub(super) fn new() -> Self {
        Self::edited(|_, source| source.to_owned())
    }

    /// The scripts after an edit of each source file, by its name: tests bring a clock of their own, and faults.
    pub(super) fn edited(edit: impl Fn(&str, &str) -> String) -> Self {
        let common = edit("common", include_str!("common.lua"));
        let operation = |name, source: &str| Script::new(&format!("{common}{}", edit(name, source)));
        let limits = edit("limits", include_str!("limits.lua"));
        let parts = [
            common.clone(),
            limits.clone(),
            edit("settle", include_str!("settle.lua")),
            edit("admit", include_str!("admit.lua")),
        ];
        // These two run for each job.
        let function = |name: &str, preludes: &[String], source: &str| {
            Script::stored(&format!("gate_{name}"), &preludes.concat(), &edit(name, source))
        };
        Self {
            turn: function("settle_and_admit", &parts, include_str!("settle_and_admit.lua")),
            room: function(
                "limit_room",
                &[common.clone(), limits],
                include_str!("limit_room.lua"),
            ),
            renew: operation("renew", include_str!("renew.lua")),
            control: operation("breaker_control", include_str!("breaker_control.lua")),
            presence: Script::new(&edit("replica_presence", include_str!("replica_presence.lua"))),
        }
    }

    /// All of them, by name.
    pub(super) fn named(&self) -> [(&'static str, &Script); 5] {
        [
            ("settle_and_admit", &self.turn),
            ("limit_room", &self.room),
            ("renew", &self.renew),
            ("breaker_control", &self.control),
            ("replica_presence", &self.presence),
        ]
    }
}
