//! The variables of breakers and limits.

use std::{num::NonZeroU32, time::Duration};

use super::{EnvReader, HOUR, deployments, vars, vars::EnvVar};
use crate::gate::{BreakerSettings, FailureShare, GateSettings, GatesSettings, LimitSettings};

/// The variables of one kind of breaker.
struct BreakerVars {
    failures: &'static EnvVar,
    successes: &'static EnvVar,
    open_for: &'static EnvVar,
    window: &'static EnvVar,
    half_open: &'static EnvVar,
    share: &'static EnvVar,
    slow_after: &'static EnvVar,
}

const OPENAI: BreakerVars = BreakerVars {
    failures: &vars::OPENAI_BREAKER_FAILURES,
    successes: &vars::OPENAI_BREAKER_SUCCESSES,
    open_for: &vars::OPENAI_BREAKER_OPEN_FOR,
    window: &vars::OPENAI_BREAKER_WINDOW,
    half_open: &vars::OPENAI_BREAKER_HALF_OPEN,
    share: &vars::OPENAI_BREAKER_SHARE,
    slow_after: &vars::OPENAI_BREAKER_SLOW_AFTER,
};

const AZURE: BreakerVars = BreakerVars {
    failures: &vars::AZURE_BREAKER_FAILURES,
    successes: &vars::AZURE_BREAKER_SUCCESSES,
    open_for: &vars::AZURE_BREAKER_OPEN_FOR,
    window: &vars::AZURE_BREAKER_WINDOW,
    half_open: &vars::AZURE_BREAKER_HALF_OPEN,
    share: &vars::AZURE_BREAKER_SHARE,
    slow_after: &vars::AZURE_BREAKER_SLOW_AFTER,
};

/// Reads all gates; `None` when they are switched off. Errors go into `env` in either case.
pub(super) fn read(env: &mut EnvReader<'_>, lease_ttl: Duration) -> Option<GatesSettings> {
    let (openai, azure) = (numbers(env, &OPENAI), numbers(env, &AZURE));
    let names = deployments::names(env);
    let mut settings = GatesSettings {
        openai: GateSettings {
            breaker: breaker(env, &vars::OPENAI_BREAKER, openai),
            limits: limits(
                env,
                &vars::OPENAI_RATE_LIMIT_RPM,
                Some(&vars::OPENAI_RATE_LIMIT_TPM),
                &vars::OPENAI_MAX_CONCURRENT,
            ),
        },
        azure_speech: GateSettings {
            breaker: breaker(env, &vars::AZURE_SPEECH_BREAKER, azure),
            limits: limits(
                env,
                &vars::AZURE_SPEECH_RATE_LIMIT_RPM,
                None,
                &vars::AZURE_SPEECH_MAX_CONCURRENT,
            ),
        },
        azure_vision: GateSettings {
            breaker: breaker(env, &vars::AZURE_VISION_BREAKER, azure),
            limits: limits(
                env,
                &vars::AZURE_VISION_RATE_LIMIT_RPM,
                None,
                &vars::AZURE_VISION_MAX_CONCURRENT,
            ),
        },
        lease_ttl,
        ..GatesSettings::default()
    };
    deployments::gates(env, &names, &mut settings);
    if let Err(error) = settings.check() {
        env.complain::<()>(&vars::OPENAI_BREAKER, &error.to_string());
    }
    env.switch(&vars::CIRCUIT_BREAKER).then_some(settings)
}

#[derive(Clone, Copy)]
struct Numbers {
    failures: u32,
    successes: u32,
    open_for: Duration,
    window: Duration,
    half_open: u32,
    share: FailureShare,
    slow_after: Option<Duration>,
}

fn numbers(env: &mut EnvReader<'_>, vars: &BreakerVars) -> Numbers {
    let least = Duration::from_millis(1);
    let numbers = Numbers {
        failures: env.number(vars.failures, 1..=1000),
        successes: env.number(vars.successes, 1..=1000),
        open_for: env.duration(vars.open_for, least, 24 * HOUR),
        window: env.duration(vars.window, least, 24 * HOUR),
        half_open: env.number(vars.half_open, 1..=1000),
        share: env.parse(vars.share, |text| {
            let share = text
                .parse::<f64>()
                .ok()
                .filter(|share| (0.0..=1.0).contains(share));
            // Whole percents: the filter has bounded the share.
            let percent = share.map(|share| (share * 100.0).round() as u8);
            percent
                .and_then(FailureShare::new)
                .ok_or_else(|| "a share from 0 to 1".to_owned())
        }),
        slow_after: Some(env.duration(vars.slow_after, Duration::ZERO, HOUR))
            .filter(|after| !after.is_zero()),
    };
    if numbers.half_open < numbers.successes {
        let fault = format!(
            "must not be less than {}: the breaker could never close",
            vars.successes.name
        );
        env.complain::<()>(vars.half_open, &fault);
    }
    numbers
}

fn breaker(env: &mut EnvReader<'_>, name: &EnvVar, numbers: Numbers) -> BreakerSettings {
    let Numbers {
        failures,
        successes,
        open_for,
        window,
        half_open,
        share,
        slow_after,
    } = numbers;
    // The other faults have been noted by their own variables: only the name is left.
    let half_open = half_open.max(successes);
    env.parse(name, |text| {
        BreakerSettings::new(text, failures, successes, open_for, window, half_open)
            .map(|breaker| breaker.with_share(share).with_slow_after(slow_after))
            .map_err(|e| e.to_string())
    })
}

fn limits(env: &mut EnvReader<'_>, rpm: &EnvVar, tpm: Option<&EnvVar>, concurrent: &EnvVar) -> LimitSettings {
    let mut limit = |var: &EnvVar| NonZeroU32::new(env.number(var, 0..=1_000_000_000));
    LimitSettings {
        requests_per_minute: limit(rpm),
        tokens_per_minute: tpm.and_then(&mut limit),
        max_concurrent: limit(concurrent),
    }
}
