//! The fair line in a few lines of Rust, without Redis: what `fair_line.lua` promises is proved here first.
//!
//! A list of jobs, of which others take the first, put jobs in front, add at the back and remove in between; and beside
//! it the turns of the owners and the places of the jobs, which find a job in the list without a walk.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use proptest::prelude::*;

const ROUND: i64 = 1 << 20;

#[derive(Debug, Default)]
struct ModelLine {
    /// Id and owner, the front first.
    list: VecDeque<(u32, u8)>,
    turns: BTreeMap<u8, i64>,
    lines: HashMap<u8, VecDeque<(i64, u32)>>,
    moved: HashMap<u32, i64>,
    front: i64,
    placed: usize,
    turn: i64,
    seq: i64,
    next_id: u32,
    /// Jobs that an earlier claim has put to the front in turn.
    ready: usize,
    /// All jobs of that arrangement: their owners' turns are used already.
    arranged: HashSet<u32>,
}

/// Jobs that one claim arranges at most.
const MOST_READY: usize = 64;
/// Longest line in which no jobs are arranged.
const SHORT_LINE: usize = 16;

impl ModelLine {
    fn add(&mut self, owner: u8) {
        self.list.push_back((self.next_id, owner));
        self.next_id += 1;
    }

    fn queue_up(&mut self, owner: u8, entry: (i64, u32), in_front: bool) {
        let line = self.lines.entry(owner).or_default();
        if in_front {
            line.push_front(entry);
        } else {
            line.push_back(entry);
        }
        let due = self.turn.div_euclid(ROUND) * ROUND + self.seq % ROUND;
        self.turns.entry(owner).or_insert_with(|| {
            self.seq += 1;
            due
        });
    }

    /// Gives each job its place.
    fn place(&mut self) {
        while self.placed < self.list.len() {
            let (id, owner) = self.list[self.placed];
            let place = self.front + i64::try_from(self.placed).unwrap();
            self.queue_up(owner, (place, id), false);
            self.placed += 1;
        }
    }

    /// Takes the next jobs, as one claim does: those that are ready, then others in turn. A claim that takes a few
    /// arranges the next ones of the round.
    fn claim(&mut self, wanted: usize) -> Vec<(u32, u8)> {
        let mut taken: Vec<_> = (0..wanted.min(self.ready))
            .map_while(|_| self.list.pop_front())
            .collect();
        self.ready -= taken.len();
        if taken.len() == wanted {
            return taken;
        }
        self.place();
        let round = self.turns.values().min().map(|turn| turn.div_euclid(ROUND));
        let of_round = |turn: &&i64| Some(turn.div_euclid(ROUND)) == round;
        let most = MOST_READY.min(self.list.len().saturating_sub(1));
        let due = self.turns.values().filter(of_round).count().min(most);
        let few = wanted < most && self.list.len() > SHORT_LINE && due > wanted - taken.len();
        let more = if few { due } else { wanted - taken.len() };
        self.arranged.clear();
        for _ in 0..more {
            let Some(job) = self.take() else { break };
            self.arranged.insert(job.0);
            taken.push(job);
        }
        while taken.len() > wanted {
            self.list.extend(taken.pop());
            self.list.rotate_right(1);
            self.ready += 1;
        }
        taken
    }

    /// Jobs that were ready are in their owners' lines again, without the turns that they have used.
    fn unarrange(&mut self) {
        let ready: Vec<_> = self.list.drain(..self.ready).collect();
        self.ready = 0;
        for job in ready.into_iter().rev() {
            self.give_back(job);
        }
    }

    /// Takes the next job in turn, which is found by its place.
    fn take(&mut self) -> Option<(u32, u8)> {
        self.place();
        loop {
            let (owner, due) = self.turns.iter().map(|(o, t)| (*o, *t)).min_by_key(|(_, t)| *t)?;
            let Some((place, id)) = self.lines.get_mut(&owner).and_then(VecDeque::pop_front) else {
                self.turns.remove(&owner);
                continue;
            };
            self.turns.insert(owner, due + ROUND);
            self.turn = self.turn.max(due);
            let place = self.moved.remove(&id).unwrap_or(place);
            let distance = usize::try_from(place - self.front).unwrap();
            assert_eq!(self.list[distance].0, id, "a job stands where its place says");
            let first = self.list.pop_front().unwrap();
            if distance > 0 {
                self.list[distance - 1] = first;
                self.moved.insert(first.0, place);
            }
            self.front += 1;
            self.placed -= 1;
            return Some((id, owner));
        }
    }

    /// Puts a taken job back: next in its owner's line, which gets its turn back. One of the last arrangement is ready again.
    fn give_back(&mut self, (id, owner): (u32, u8)) {
        if self.ready > 0 && self.arranged.contains(&id) {
            self.list.push_front((id, owner));
            self.ready += 1;
            return;
        }
        if self.ready > 0 {
            self.unarrange();
        }
        self.list.push_front((id, owner));
        self.front -= 1;
        self.placed += 1;
        let due = self.turns.get(&owner).copied();
        self.queue_up(owner, (self.front, id), true);
        let this_round = self.turn.div_euclid(ROUND) * ROUND;
        self.turns
            .insert(owner, (due.unwrap_or(self.turn) - ROUND).max(this_round));
    }
}

#[derive(Debug, Clone)]
enum ModelStep {
    Add(u8, usize),
    Take(usize),
    /// Of the jobs taken last, so many could not start.
    GiveBack(usize),
}

fn steps() -> impl Strategy<Value = Vec<ModelStep>> {
    let step = prop_oneof![
        3 => (0u8..12, 1usize..30).prop_map(|(owner, count)| ModelStep::Add(owner, count)),
        4 => (1usize..20).prop_map(ModelStep::Take),
        4 => (1usize..4).prop_map(ModelStep::Take),
        1 => (1usize..4).prop_map(ModelStep::GiveBack),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// Each job is taken once, found by its place at any depth, and each owner's jobs in their order.
    #[test]
    fn nothing_is_lost_or_taken_twice_or_out_of_its_owners_order(steps in steps()) {
        let mut line = ModelLine::default();
        let (mut taken, mut done) = (Vec::new(), HashSet::new());
        let mut last: HashMap<u8, u32> = HashMap::new();
        for step in steps {
            match step {
                ModelStep::Add(owner, count) => (0..count).for_each(|_| line.add(owner)),
                ModelStep::Take(count) => taken.extend(line.claim(count)),
                ModelStep::GiveBack(count) => {
                    for _ in 0..count.min(taken.len()) {
                        line.give_back(taken.pop().unwrap());
                    }
                }
            }
        }
        while line.ready > 0 || !line.list.is_empty() {
            taken.extend(line.claim(3));
        }
        line.claim(1);
        for (id, owner) in &taken {
            prop_assert!(done.insert(*id), "{id} was taken twice");
            prop_assert!(last.insert(*owner, *id).is_none_or(|before| before < *id), "{id} is out of order");
        }
        prop_assert_eq!(done.len(), line.next_id as usize);
        prop_assert!(line.moved.is_empty() && line.lines.values().all(VecDeque::is_empty));
    }

    /// Between two jobs of an owner who waits, no other has more than one, and one more before the first.
    #[test]
    fn nobody_is_passed_over_for_more_than_a_round(steps in steps()) {
        let mut line = ModelLine::default();
        let mut passed: HashMap<(u8, u8), u32> = HashMap::new();
        for step in steps {
            match step {
                ModelStep::Add(owner, count) => (0..count).for_each(|_| line.add(owner)),
                ModelStep::GiveBack(_) => {}
                ModelStep::Take(count) => {
                    let claimed: Vec<u8> = line.claim(count).into_iter().map(|(_, owner)| owner).collect();
                    for (nth, &owner) in claimed.iter().enumerate() {
                        let mut waiting: HashSet<u8> = line.list.iter().map(|(_, owner)| *owner).collect();
                        waiting.extend(&claimed[nth + 1..]);
                        passed.retain(|(waits, _), _| *waits != owner && waiting.contains(waits));
                        for waits in waiting.into_iter().filter(|waits| *waits != owner) {
                            let times = passed.entry((waits, owner)).or_default();
                            *times += 1;
                            prop_assert!(*times <= 2, "{owner} passed {waits} {times} times");
                        }
                    }
                }
            }
        }
    }
}
