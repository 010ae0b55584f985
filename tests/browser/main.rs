//! The report of `vial bench` in a real browser (Chromium without a window): it opens without a word on the console and without a request, whatever contenders
//! call themselves, and can be read on a desk and on a telephone, by day and by night.
//!
//! The browser is spoken to over its DevTools pipe: messages are JSON, each ended by a zero byte.
#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use vial_bench::{report, result::Document};

/// Says what is wrong with the page that is open.
const INSPECT: &str = include_str!("inspect.js");

struct Browser {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    calls: u64,
    /// What came unasked.
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        // The pipe's ends are descriptors 3 and 4. A browser that hangs is ended, which ends the pipe and so the test.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec timeout 120 chromium "$@" 3<&0 4>&1 </dev/null >"$LOG" 2>&1"#, "sh"])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("LOG", profile.path().join("log"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut browser =
            Self { child, to, from, session: None, calls: 0, events: Vec::new(), _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached =
            browser.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime", "Log", "Network", "Page"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.as_mut().unwrap().write_all(&bytes).unwrap();
        loop {
            let answer = self.receive();
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    fn receive(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).unwrap();
        assert_eq!(
            bytes.pop(),
            Some(0),
            "the browser ended: is chromium installed? (apt-get install chromium)"
        );
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Opens a page as wide as told, and says what is wrong with it.
    fn faults(&mut self, page: &Path, width: u32, theme: &str) -> Vec<String> {
        let metrics = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let theme = json!({"features": [{"name": "prefers-color-scheme", "value": theme}]});
        self.call("Emulation.setEmulatedMedia", theme);
        self.events.clear();
        let url = format!("file://{}", page.display());
        self.call("Page.navigate", json!({"url": url}));
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.receive();
            self.events.push(event);
        }
        let seen = self.call("Runtime.evaluate", json!({"expression": INSPECT, "returnByValue": true}));
        let faults = seen["result"]["value"].as_array().unwrap_or_else(|| panic!("no list but {seen}"));
        let mut faults: Vec<String> = faults.iter().map(|fault| fault.as_str().unwrap().to_owned()).collect();
        for event in &self.events {
            let request = &event["params"]["request"]["url"];
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded" => {
                    faults.push(event["params"].to_string());
                }
                "Network.requestWillBeSent" if *request != url.as_str() => {
                    faults.push(format!("asks for {request}"))
                }
                _ => {}
            }
        }
        faults
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends with its pipe; its profile is removed only then.
        drop(self.to.take());
        let _ = self.child.wait();
    }
}

fn looked_at(json: &str) {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    std::fs::write(&page, report::html(&Document::read(json.as_bytes()).unwrap())).unwrap();
    let mut browser = Browser::start();
    for width in [1200, 400] {
        for theme in ["light", "dark"] {
            let faults = browser.faults(&page, width, theme);
            assert!(faults.is_empty(), "{width} px, {theme}: {faults:#?}");
        }
    }
}

const SAMPLE: &str = include_str!("../../runtime/bench/tests/sample.json");

#[test]
fn the_report_opens_without_a_word_or_a_request_and_can_be_read() {
    looked_at(SAMPLE);
}

#[test]
fn a_contender_that_hates_reports_is_shown_and_does_nothing() {
    let name = r#"</title></svg><img src=x onerror=alert(1)><script>document.title='taken'</script>"#;
    let name = serde_json::to_string(name).unwrap();
    for whom in ["\"crun\"", "\"agent ready\"", "\"no network\"", "\"spectre_v1\""] {
        assert!(SAMPLE.contains(whom), "{whom}");
        looked_at(&SAMPLE.replace(whom, &name));
    }
}
