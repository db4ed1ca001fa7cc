//! Schedules of months: time that passes while some devices sleep, and what only shows then.
//!
//! A world of months is one of seconds with leaps between them. In a leap some devices are suspended or switched
//! off, and some stay so over the next leaps as well; the others are given each moment at which they want to be
//! woken, and a few hundredths of a second there, in which what is under way arrives and people go on doing
//! things. So a year costs about what a minute of another world does, and whoever is awake counts its days.

use std::time::Duration;

use super::check::Violation;
use super::host::Request;
use super::world::{Event, World};
use crate::sync::RosterChange;

/// How a device sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sleep {
    /// Its memory is kept, and its clocks go on.
    Suspended,
    /// It begins again from its disk.
    Off,
}

/// Where a world of months stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Leap {
    /// Time that was passed over so far: the devices' clocks have it, the queue of events has not.
    pub skipped: Duration,
    /// When the leap under way ends, as the devices see it.
    end: Duration,
    /// Looks in a row at which something was on its way.
    under_way_count: u32,
    /// Moments in a row that were soon after each other.
    soon_count: u32,
}

impl World {
    /// The time as devices see it.
    pub(super) fn time(&self) -> Duration {
        self.now + self.leap.skipped
    }

    /// Some devices fall asleep, some wake up, and time begins to pass.
    pub(super) fn leap(&mut self) -> Result<(), Violation> {
        for host in 0..self.hosts.len() {
            match self.hosts[host].sleep {
                Some(_) if self.rng.happens(400) => self.wake_up(host)?,
                Some(_) => {}
                None if self.rng.happens(500) => self.fall_asleep(host)?,
                None => {}
            }
        }
        let days = match self.rng.below(10) {
            0..3 => self.rng.between(1, 4),
            3..6 => self.rng.between(7, 31),
            _ => self.rng.between(31, 120),
        };
        self.note(format!("- {days} days pass"));
        self.leap.end = self.time() + DAY * u32::try_from(days).expect("it is small");
        self.soon(1, 60, Event::Pass);
        Ok(())
    }

    /// Time passes until somebody who is awake wants to be woken, or the leap is over.
    pub(super) fn pass(&mut self) -> Result<(), Violation> {
        let (time, end) = (self.time(), self.leap.end);
        if time >= end {
            return self.land();
        }
        let awake = self.hosts.iter().filter(|host| host.sleep.is_none());
        let next = awake.filter_map(|host| host.life.as_ref()?.deadline(time)).min();
        // What goes back and forth takes no days, however many are passed over.
        self.network.conns.values_mut().for_each(|conn| conn.delay_ms = (0, 10));
        let is_under_way = self.network.is_busy() && self.leap.under_way_count < UNDER_WAY_MAX;
        self.leap.under_way_count = if is_under_way { self.leap.under_way_count + 1 } else { 0 };
        let to = match next {
            // What is on its way arrives first.
            _ if is_under_way => time,
            Some(at) => {
                let is_soon = at < time + SOON;
                self.leap.soon_count = if is_soon { self.leap.soon_count + 1 } else { 0 };
                // Moment by moment, so that who waits for another is not overtaken; unless there is no end to it.
                if self.leap.soon_count <= SOON_MAX { at } else { at.max(time + DAY / 2) }
            }
            None => end,
        };
        self.leap.skipped += to.min(end).saturating_sub(time);
        for host in 0..self.hosts.len() {
            self.watch_again(host);
        }
        self.soon(2, 60, Event::Pass);
        Ok(())
    }

    /// A leap is over: devices wake up, are used for a while, and then time passes again.
    fn land(&mut self) -> Result<(), Violation> {
        for host in 0..self.hosts.len() {
            if self.hosts[host].sleep.is_some() && self.rng.happens(600) {
                self.wake_up(host)?;
            }
        }
        if self.time() >= MONTH * self.knobs.months {
            self.soon(100, 3_000, Event::Heal);
        } else {
            self.soon(100, 4_000, Event::Leap);
        }
        Ok(())
    }

    fn fall_asleep(&mut self, host: usize) -> Result<(), Violation> {
        let sleep = if self.rng.happens(500) { Sleep::Suspended } else { Sleep::Off };
        self.note(format!("{host} ! falls asleep: {sleep:?}"));
        match sleep {
            Sleep::Off => self.crash(host)?,
            Sleep::Suspended => self.hang_up(host),
        }
        self.hosts[host].sleep = Some(sleep);
        Ok(())
    }

    pub(super) fn wake_up(&mut self, host: usize) -> Result<(), Violation> {
        let Some(sleep) = self.hosts[host].sleep.take() else { return Ok(()) };
        self.note(format!("{host} ! wakes up"));
        match sleep {
            Sleep::Off => self.boot(host)?,
            Sleep::Suspended => {
                self.watch_again(host);
                self.wake(host);
            }
        }
        Ok(())
    }

    /// A person says that nothing waits for a device that sleeps, or that it is in use again: on one device, by
    /// one person. Two who say it of each other's device part their histories.
    pub(super) fn call_dormant(&mut self) {
        let other = self.rng.index(self.hosts.len());
        let (device, of_other) = (self.hosts[0].device(), self.hosts[other].device());
        if self.hosts[0].sleep.is_some() || !self.hosts[0].is_member() || device == of_other {
            return;
        }
        let change = match self.hosts[other].sleep {
            Some(_) => RosterChange::Dormant { device: of_other },
            None => RosterChange::Active { device: of_other },
        };
        self.note(format!("0 ! says {change:?}"));
        self.hosts[0].request(Request::Change(change));
        self.wake(0);
    }
}

/// Moments that are no further apart than this follow each other.
const SOON: Duration = Duration::from_secs(600);

/// Such moments in a row.
const SOON_MAX: u32 = 200;

/// Looks in a row while something is on its way.
const UNDER_WAY_MAX: u32 = 300;

const DAY: Duration = Duration::from_secs(86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);
