//! The sums, budgets and kill switch, as an operator reads and sets them.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, UNIX_EPOCH},
};

use redis::{RedisError, pipe};
use serde::Serialize;

pub use super::report::{ReportLine, SpendGrouping, SpendReport, month};
use super::{
    Budgets, Usd,
    report::{HashFields, WEEK, days_of, forecast, lines_of, most_first},
    webhook::{Standing, resend_refused},
};
use crate::{
    connection::Connection,
    keys::{KILL_SWITCH, MONTHLY_LIMIT, SPEND_PREFIX},
};

/// Students that a report lists at most.
const MOST_STUDENTS: usize = 100;
/// Fields that one command reads of a hash with students.
const SCAN: usize = 1000;
/// Longest name and reason that are kept with the kill switch, characters.
const LONGEST_NOTE: usize = 200;

/// The use of a budget.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetUse {
    /// The day or month.
    pub period: String,
    /// The spent amount.
    pub usd: Usd,
    /// Upper bound of the cost of calls whose answer was lost. It counts for the budget.
    pub possible_usd: Usd,
    /// The budget, if there is one.
    pub budget_usd: Option<Usd>,
    /// The share of the budget that is spent or reserved, percent.
    pub percent: Option<u64>,
}

/// Budgets and kill switch.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// True while all paid calls are stopped.
    pub kill_switch: bool,
    /// The operator who set the switch last.
    pub switched_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When, by Redis's clock.
    pub switched_at: Option<String>,
    /// Today.
    pub day: BudgetUse,
    /// This month.
    pub month: BudgetUse,
    /// The reservations of calls in flight.
    pub reserved_usd: Usd,
    /// The monthly allowance of one student.
    pub student_budget_usd: Option<Usd>,
}

/// A call of one job that cost money, or may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PaidCall {
    /// The step of the job that it was made for.
    pub step: String,
    /// The provider, or the deployment, that it was made at; absent for calls of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `paid`, `unpriced`, or `possible`: its answer was lost.
    pub came_to: String,
    /// The cost, or the highest possible cost.
    pub usd: Usd,
}

/// The money, in an operator's hands.
#[derive(Debug, Clone)]
pub struct SpendAccounts {
    connection: Connection,
    budgets: Budgets,
}

impl SpendAccounts {
    /// The accounts in this Redis, with the budgets of the configuration.
    pub const fn new(connection: Connection, budgets: Budgets) -> Self {
        Self { connection, budgets }
    }

    /// Today in UTC, by Redis's clock.
    ///
    /// # Errors
    /// Redis's.
    pub async fn today(&self) -> Result<String, RedisError> {
        Ok(day_of(self.now().await?))
    }

    /// Redis's clock, seconds.
    async fn now(&self) -> Result<u64, RedisError> {
        let mut time = pipe();
        time.cmd("TIME");
        let ((seconds, _),): ((u64, u64),) = self.connection.query(&time).await?;
        Ok(seconds)
    }

    /// Reads the cost of `month` (`None`: this one). Days stay for 100 days: of an earlier month only the sum is
    /// known, and what students have spent.
    ///
    /// # Errors
    /// Redis's.
    pub async fn report(&self, month: Option<&str>, by: SpendGrouping) -> Result<SpendReport, RedisError> {
        let now = self.now().await?;
        let today = day_of(now);
        let this_month: String = today.chars().take("2026-11".len()).collect();
        let month = month.map_or_else(|| this_month.clone(), str::to_owned);
        let mut read = pipe();
        for day in 1..=WEEK as u64 {
            let day = day_of(now.saturating_sub(day * 86_400));
            read.hget(self.books(&format!("day:{day}")), "total");
        }
        let week: Vec<Option<u64>> = match month == this_month {
            true => self.connection.query(&read).await?,
            false => Vec::new(),
        };
        let mut read = pipe();
        read.hgetall(self.books(&format!("month:{month}")));
        let days: Vec<String> = (1..=31).map(|day| format!("{month}-{day:02}")).collect();
        for day in &days {
            read.hgetall(self.books(&format!("day:{day}")));
        }
        let mut answers: Vec<HashFields> = self.connection.query(&read).await?;
        let sums = answers.remove(0);
        let lines = match by {
            SpendGrouping::User => self.students(&month).await?,
            by => lines_of(&days, &answers, by),
        };
        let usd = amount(&sums, "total");
        let forecast_usd = (month == this_month).then(|| {
            let part_of = |part: usize| {
                today
                    .split('-')
                    .nth(part)
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(1)
            };
            let (year, in_year, day) = (part_of(0), part_of(1), part_of(2));
            let of_today = days
                .iter()
                .position(|day| *day == today)
                .and_then(|at| answers.get(at));
            let spent_today = of_today.map(|fields| amount(fields, "total")).unwrap_or_default();
            let week: Vec<Usd> = week
                .iter()
                .map(|total| Usd::from_nanos(total.unwrap_or(0)))
                .collect();
            forecast(now, usd, spent_today, &week, days_of(year, in_year), day)
        });
        Ok(SpendReport {
            month,
            usd,
            possible_usd: amount(&sums, "possible"),
            forecast_usd,
            reused_jobs: number(&sums, "reused"),
            awaited_jobs: number(&sums, "awaited"),
            saved_usd: amount(&sums, "saved"),
            lines,
        })
    }

    /// A key of the books.
    fn books(&self, name: &str) -> String {
        self.connection.named(&format!("{SPEND_PREFIX}{name}"))
    }

    /// Those who have spent the most.
    async fn students(&self, month: &str) -> Result<Vec<ReportLine>, RedisError> {
        let key = self.books(&format!("students:{month}"));
        let mut lines: HashMap<String, ReportLine> = HashMap::new();
        let mut cursor = 0u64;
        loop {
            let mut scan = pipe();
            scan.cmd("HSCAN").arg(&key).arg(cursor).arg("COUNT").arg(SCAN);
            let ((next, fields),): ((u64, Vec<(String, u64)>),) = self.connection.query(&scan).await?;
            for (field, amount) in fields {
                let Some((kind, name)) = field.split_once(':') else {
                    continue;
                };
                let line = lines.entry(name.to_owned()).or_default();
                line.name = name.to_owned();
                line.add(if kind == "p" { "usd" } else { "possible" }, amount);
            }
            cursor = next;
            if cursor == 0 {
                let mut lines: Vec<ReportLine> = lines.into_values().collect();
                lines.sort_by(most_first);
                lines.truncate(MOST_STUDENTS);
                return Ok(lines);
            }
        }
    }

    /// The calls of a job that the ledger's page under this key knows: those of a job that is not completed.
    ///
    /// # Errors
    /// Redis's.
    pub async fn calls_of(&self, page: &str) -> Result<Vec<PaidCall>, RedisError> {
        // The answers beside the notes are large: they stay where they are. A page holds far fewer entries than one
        // scan reads.
        let mut scan = pipe();
        scan.cmd("HSCAN")
            .arg(page)
            .arg(0)
            .arg("MATCH")
            .arg("$*")
            .arg("COUNT")
            .arg(SCAN);
        let ((_, notes),): ((u64, BTreeMap<String, String>),) = self.connection.query(&scan).await?;
        Ok(notes.values().filter_map(|note| paid_call(note)).collect())
    }

    /// Reads how far usage events are forwarded.
    ///
    /// # Errors
    /// Redis's.
    pub async fn webhook(&self) -> Result<Standing, RedisError> {
        Standing::read(&self.connection).await
    }

    /// Forwards all events again that the receiver has refused for their content; how many they are.
    ///
    /// # Errors
    /// Redis's.
    pub async fn resend_refused(&self) -> Result<u64, RedisError> {
        resend_refused(&self.connection).await
    }

    /// Budgets, and what is left of them.
    ///
    /// # Errors
    /// Redis's.
    pub async fn status(&self) -> Result<BudgetStatus, RedisError> {
        let today = self.today().await?;
        let month: String = today.chars().take("2026-11".len()).collect();
        let mut read = pipe();
        let (of_switch, sums) = (["by", "reason", "at"], ["total", "possible"]);
        read.get(self.connection.named(KILL_SWITCH))
            .get(self.connection.named(MONTHLY_LIMIT))
            .hmget(self.books("switch"), &of_switch)
            .hmget(self.books(&format!("day:{today}")), &sums)
            .hmget(self.books(&format!("month:{month}")), &sums)
            .hget(self.books("reserved"), "total");
        type Sums = (Option<u64>, Option<u64>);
        type Note = (Option<String>, Option<String>, Option<u64>);
        type Answer = (Option<String>, Option<String>, Note, Sums, Sums, Option<u64>);
        let (switch, limit, (by, reason, at), of_day, of_month, reserved): Answer =
            self.connection.query(&read).await?;
        let reserved = Usd::from_nanos(reserved.unwrap_or(0));
        let used = |period, sums: Sums, budget: Option<Usd>| {
            let amount = |nanos: Option<u64>| Usd::from_nanos(nanos.unwrap_or(0));
            let (usd, possible_usd) = (amount(sums.0), amount(sums.1));
            BudgetUse {
                period,
                usd,
                possible_usd,
                budget_usd: budget,
                percent: budget.map(|budget| usd.plus(possible_usd).plus(reserved).percent_of(budget)),
            }
        };
        Ok(BudgetStatus {
            kill_switch: is_on(switch.as_deref()),
            switched_by: by,
            reason,
            switched_at: at.map(iso),
            day: used(today, of_day, self.budgets.day),
            month: used(month, of_month, limit_of(limit.as_deref()).or(self.budgets.month)),
            reserved_usd: reserved,
            student_budget_usd: self.budgets.student,
        })
    }

    /// Reads whether the kill switch is on.
    ///
    /// # Errors
    /// Redis's.
    pub async fn is_stopped(&self) -> Result<bool, RedisError> {
        let mut read = pipe();
        read.get(self.connection.named(KILL_SWITCH));
        let (switch,): (Option<String>,) = self.connection.query(&read).await?;
        Ok(is_on(switch.as_deref()))
    }

    /// Sets the kill switch: `true` stops the paid calls of all replicas from now on.
    ///
    /// # Errors
    /// Redis's.
    pub async fn switch(&self, is_on: bool, by: &str, reason: &str) -> Result<(), RedisError> {
        let short = |text: &str| text.chars().take(LONGEST_NOTE).collect::<String>();
        let mut time = pipe();
        time.cmd("TIME");
        let ((seconds, _),): ((u64, u64),) = self.connection.query(&time).await?;
        let mut write = pipe();
        write
            .atomic()
            .set(
                self.connection.named(KILL_SWITCH),
                if is_on { "true" } else { "false" },
            )
            .ignore()
            .hset_multiple(
                self.books("switch"),
                &[
                    ("by", short(by)),
                    ("reason", short(reason)),
                    ("at", seconds.to_string()),
                ],
            )
            .ignore();
        self.connection.query(&write).await
    }

    /// Sets what the fleet may spend in a month; `None`: what the replicas are configured with.
    ///
    /// # Errors
    /// Redis's.
    pub async fn set_month(&self, budget: Option<Usd>) -> Result<(), RedisError> {
        let mut write = pipe();
        match budget {
            Some(budget) => write
                .set(self.connection.named(MONTHLY_LIMIT), budget.to_string())
                .ignore(),
            None => write.del(self.connection.named(MONTHLY_LIMIT)).ignore(),
        };
        self.connection.query(&write).await
    }

    /// Sets what the calls for one student may cost a month; `None`: what the replicas are configured with.
    ///
    /// # Errors
    /// Redis's.
    pub async fn allow(&self, student: &str, budget: Option<Usd>) -> Result<(), RedisError> {
        let (key, mut write) = (self.books("allowances"), pipe());
        match budget {
            Some(budget) => write
                .atomic()
                .set(self.books("allows"), 1)
                .ignore()
                .hset(key, student, budget.nanos())
                .ignore(),
            None => write.hdel(key, student).ignore(),
        };
        self.connection.query(&write).await
    }
}

/// `<what it came to> <amount> <step> <service>`, as `close.lua` writes it; earlier versions name no service.
fn paid_call(note: &str) -> Option<PaidCall> {
    let mut words = note.splitn(4, ' ');
    let (came_to, amount, step) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    Some(PaidCall {
        step: step.to_owned(),
        came_to: came_to.to_owned(),
        usd: Usd::from_nanos(amount),
        service: words.next().map(str::to_owned),
    })
}

fn is_on(switch: Option<&str>) -> bool {
    switch.is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

/// The web API writes a number.
fn limit_of(text: Option<&str>) -> Option<Usd> {
    let text = text?.trim();
    text.parse().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        format!("{number:.9}").parse().ok()
    })
}

/// The day of a time, UTC, as 2026-11-30.
pub(crate) fn day_of(seconds: u64) -> String {
    let mut text = iso(seconds);
    text.truncate("2026-11-30".len());
    text
}

fn iso(seconds: u64) -> String {
    // A time beyond the calendar is cut to its end.
    let seconds = seconds.min(253_402_300_799);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

fn amount(fields: &HashFields, name: &str) -> Usd {
    Usd::from_nanos(number(fields, name))
}

fn number(fields: &HashFields, name: &str) -> u64 {
    let number = fields.get(name).and_then(|text| text.parse().ok());
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_the_web_api_is_read_as_it_writes_it() {
        for (text, usd) in [
            ("100", "100"),
            ("12.5", "12.5"),
            (" 7 ", "7"),
            ("1e2", "100"),
            ("0", "0"),
        ] {
            assert_eq!(limit_of(Some(text)), usd.parse().ok(), "{text}");
        }
        for text in ["", "none", "-1", "NaN"] {
            assert_eq!(limit_of(Some(text)), None, "{text}");
        }
    }
}
