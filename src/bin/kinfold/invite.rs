//! `invite`: a code on this screen lets another device into a space.

use std::path::Path;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Color, Style};
use kinfold::control::Method;
use kinfold::control::pairing::{CancelledForm, InviteForm, InviteParams, PairEventForm};
use kinfold::control::params::{NoParams, RoleParam, ScopeParam};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

use crate::args::Invite;
use crate::failure::Failure;
use crate::line::StatusLine;
use crate::output::{Output, Tone, short_device};
use crate::target::{Interrupt, Target};

pub async fn run(home: &Path, invite: Invite, output: &Output) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen();
    let mut target = Target::open(home).await?;
    let is_own = target.is_own();
    let outcome = match open(&target, &invite).await {
        Ok(form) => {
            let outcome = serve(&mut target, &form, !invite.no_qr, &mut interrupt, output).await;
            // Ends what is left of the invite, and waits until the other side has heard the end.
            let ended = target.call::<CancelledForm>(Method::CancelInvite, &NoParams {}).await;
            outcome.and(ended.map(drop))
        }
        Err(failure) => Err(failure),
    };
    target.close().await?;
    outcome?;
    if is_own {
        output.note("hint: `kinfold up` on both devices keeps them in sync");
    }
    Ok(())
}

async fn open(target: &Target, invite: &Invite) -> Result<InviteForm, Failure> {
    // The device that joins is told where this one listens for members.
    target.start_network().await?;
    let params = InviteParams {
        scope: invite.space.clone().unwrap_or_default(),
        role: invite.role.map(RoleParam::from),
        ttl_ms: None,
    };
    target.call(Method::Invite, &params).await
}

/// Shows the invite and what happens to it, until it is over.
async fn serve(
    target: &mut Target,
    form: &InviteForm,
    wants_qr: bool,
    interrupt: &mut Interrupt,
    output: &Output,
) -> Result<(), Failure> {
    let mut countdown = Countdown::begin(form, output);
    show(form, wants_qr, output)?;
    loop {
        let notice = tokio::select! {
            // A notice that loses against the signal is not shown: the person wants to stop.
            () = interrupt.told() => {
                countdown.end();
                return Err(Failure::InviteWithdrawn);
            }
            notice = target.notice() => notice,
            () = tokio::time::sleep(REDRAW) => {
                countdown.tick();
                continue;
            }
        };
        let notice = notice.ok_or(Failure::Client(kinfold::control::ClientError::Closed))?;
        if notice.method != "pair.event" {
            continue;
        }
        let event: PairEventForm = serde_json::from_str(notice.params.get()).map_err(Failure::Answer)?;
        countdown.hear(&event);
        tell(&event, &countdown, output)?;
        match event {
            PairEventForm::Paired { .. } => return Ok(()),
            PairEventForm::Ended { message, .. } => return Err(Failure::InviteEnded { message }),
            PairEventForm::AttemptFailed { .. }
            | PairEventForm::Enrolled { .. }
            | PairEventForm::EnrolFailed { .. } => {}
        }
    }
}

/// What to do on the other device, and the code, large and alone.
fn show(form: &InviteForm, wants_qr: bool, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(form);
    }
    let space = match &form.scope {
        ScopeParam::Personal => "the personal space".to_owned(),
        ScopeParam::Org(name) => format!("the space of {name}"),
    };
    output.line(format!("an invite into {space}, as {}\n", role_text(form.role)))?;
    if wants_qr
        && output.is_live()
        && let Some(lines) = qr_lines(&form.uri)
    {
        for line in lines {
            output.line(format!("  {line}"))?;
        }
        output.line("")?;
    }
    // The code comes last: on a small screen it is what stays in sight.
    output.line(format!("  kinfold join '{}'\n", form.uri))?;
    output.line("or, where both devices are on one network, by the code alone:\n")?;
    output.line(format!("  kinfold join {}\n", form.code))?;
    output.line(format!("      {}\n", output.paint(Tone::Strong, spaced(&form.code))))
}

fn tell(event: &PairEventForm, countdown: &Countdown, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(event);
    }
    match event {
        PairEventForm::AttemptFailed { attempts_left } => {
            let left = attempts_text(*attempts_left);
            countdown.note(output, output.paint(Tone::Warn, format!("an attempt failed, {left}")));
        }
        PairEventForm::Enrolled { name, .. } => {
            countdown.note(output, format!("{name} has the right code, handing over"));
        }
        PairEventForm::EnrolFailed { causes, .. } => {
            let text = format!("a device has the right code but is not recorded: {}", causes.join(": "));
            countdown.note(output, output.paint(Tone::Bad, text));
        }
        PairEventForm::Paired { device, name, phrase, receipted } => {
            let paired = output.paint(Tone::Good, "paired with");
            output.line(format!("{paired} {name} ({})", short_device(device)))?;
            if *receipted {
                output.line(format!("both screens show: {}", output.paint(Tone::Strong, phrase)))?;
            } else {
                output.note(format!(
                    "{name} did not say that it has everything; if it shows an error, invite it again"
                ));
            }
        }
        // Told as the failure it is.
        PairEventForm::Ended { .. } => {}
    }
    Ok(())
}

/// What is left of the invite, kept up to date where people watch.
struct Countdown {
    line: Option<StatusLine>,
    until: Instant,
    attempts_left: u8,
}

impl Countdown {
    fn begin(form: &InviteForm, output: &Output) -> Self {
        let line = StatusLine::begin(output);
        let until = Instant::now() + Duration::from_millis(form.expires_in_ms);
        Self { line, until, attempts_left: kinfold::crypto::pairing::ATTEMPTS }
    }

    fn hear(&mut self, event: &PairEventForm) {
        if let PairEventForm::AttemptFailed { attempts_left } = event {
            self.attempts_left = *attempts_left;
        }
        if event.is_last() {
            self.end();
        }
    }

    fn tick(&self) {
        let Some(line) = &self.line else { return };
        let seconds = self.until.saturating_duration_since(Instant::now()).as_secs();
        let left = attempts_text(self.attempts_left);
        let text = format!("waiting · {}:{:02} · {left} · Ctrl-C withdraws it", seconds / 60, seconds % 60);
        line.show(&text);
    }

    fn note(&self, output: &Output, text: String) {
        match &self.line {
            Some(line) => line.above(|| output.note(text)),
            None => output.note(text),
        }
    }

    fn end(&self) {
        if let Some(line) = &self.line {
            line.end();
        }
    }
}

fn attempts_text(left: u8) -> String {
    match left {
        1 => "1 attempt left".to_owned(),
        left => format!("{left} attempts left"),
    }
}

/// With room between the characters, to be read from across a table.
fn spaced(code: &str) -> String {
    let mut text = String::new();
    for (index, character) in code.chars().enumerate() {
        if index > 0 {
            text.push(' ');
        }
        text.push(character);
    }
    text
}

/// Black on white whatever the terminal's colours are; `None` for a link too long for any code.
fn qr_lines(uri: &str) -> Option<Vec<String>> {
    let code = QrCode::with_error_correction_level(uri, EcLevel::L).ok()?;
    let image = code.render::<Dense1x2>().build();
    let white = Color::Ansi(AnsiColor::BrightWhite);
    let style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Black))).bg_color(Some(white));
    Some(image.lines().map(|line| format!("{style}{line}{style:#}")).collect())
}

pub const fn role_text(role: RoleParam) -> &'static str {
    match role {
        RoleParam::Admin => "admin",
        RoleParam::Member => "member",
        RoleParam::Blind => "blind",
    }
}

/// Between two looks at the clock.
const REDRAW: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_with_every_address_fits_a_code_that_fits_a_terminal() {
        let addresses = ["[2001:db8:1111:2222:3333:4444:5555:6666]:65535"; 8].join(",");
        let short = format!("kinfold:1?i=7Q&k={}&s={}&e=1800000000", "a".repeat(61), "0".repeat(32));

        let lines = qr_lines(&short).unwrap();

        assert!(lines.len() <= 32, "{}", lines.len());
        assert!(qr_lines(&format!("{short}&a={addresses}")).is_some());
        assert!(qr_lines(&"x".repeat(5_000)).is_none());
    }

    #[test]
    fn a_code_is_shown_with_room() {
        assert_eq!(spaced("7QK-014"), "7 Q K - 0 1 4");
        assert_eq!(attempts_text(1), "1 attempt left");
        assert_eq!(attempts_text(0), "0 attempts left");
    }
}
