//! The page of `egw-probe report`, drawn by a real browser: what is there, where it is, and whether it can be read in light and dark.

use std::process::Command;

use serde_json::Value;

use crate::common::files::{Folder, report};
use crate::common::told::skip;
use crate::synthetic;

/// Measures the page from inside: boxes, colours as they are computed, and what would have come from the network.
const MEASURE: &str = r"<script>
addEventListener('load', () => {
  const box = (element) => { const b = element.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; };
  const picture = (id) => {
    const svg = document.querySelector('#' + id + ' .picture svg');
    if (!svg) return null;
    const marks = [...svg.querySelectorAll('rect,polygon,polyline,line,text')];
    const outer = svg.getBoundingClientRect();
    const outside = marks.filter((mark) => { const b = mark.getBoundingClientRect();
      return b.right > outer.right + 1 || b.left < outer.left - 1 || b.bottom > outer.bottom + 1 || b.top < outer.top - 1; });
    const fills = {};
    for (const mark of svg.querySelectorAll('rect,polygon')) {
      const fill = getComputedStyle(mark).fill; fills[fill] = (fills[fill] || 0) + 1;
    }
    const text = svg.querySelector('text');
    return { box: box(svg), marks: marks.length, outside: outside.map((mark) => mark.outerHTML), fills,
             ink: text && getComputedStyle(text).fill, words: [...svg.querySelectorAll('text')].map((t) => t.textContent.trim()) };
  };
  const card = getComputedStyle(document.querySelector('section'));
  const found = { card: card.backgroundColor, ink: card.color, width: document.documentElement.scrollWidth,
    title: document.title, headings: [...document.querySelectorAll('h1,h2')].map((h) => h.textContent),
    rows: document.querySelectorAll('tbody tr').length,
    loaded: performance.getEntriesByType('resource').length };
  for (const id of ['distribution', 'timelines', 'density', 'leaks', 'disruptions']) found[id] = picture(id);
  const out = document.createElement('pre'); out.id = 'measured'; out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>";

const WIDTH: f64 = 1120.0;

/// What the browser has drawn of a page of so many clients. `scheme` is 1 for light and 0 for dark.
fn draw(folder: &Folder, clients: usize, scheme: u8) -> Value {
    let results: String = (synthetic::Clients::new(4).take(clients))
        .map(|(_, document)| serde_json::to_string(&document).unwrap() + "\n")
        .collect();
    let results = folder.write("run.jsonl", &results);
    let page = format!("{}/page.html", folder.path());
    assert_eq!(report(&[&results, "--html", &page]).status.code(), Some(0));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(!html.contains("<script") && !html.contains("http-equiv=\"refresh\""));
    // The page forbids scripts, so the measuring one comes with a policy that lets it run.
    let measured = html
        .replace("style-src 'unsafe-inline'", "style-src 'unsafe-inline'; script-src 'unsafe-inline'")
        .replace("</body>", &format!("{MEASURE}</body>"));
    let page = folder.write("measured.html", &measured);
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--dump-dom",
        ])
        .args([
            format!("--user-data-dir={}/profile-{clients}-{scheme}", folder.path()),
            format!("--blink-settings=preferredColorScheme={scheme}"),
            format!("--window-size={WIDTH},900"),
            format!("file://{page}"),
        ])
        .output()
        .unwrap();
    let dom = String::from_utf8(output.stdout).unwrap();
    let (_, rest) = dom.split_once("<pre id=\"measured\">").expect("the page was measured");
    let json = rest.split_once("</pre>").unwrap().0;
    serde_json::from_str(&json.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")).unwrap()
}

/// Relative luminance of `rgb(r, g, b)` (WCAG 2.1).
fn luminance(colour: &str) -> f64 {
    let numbers = colour.trim_start_matches("rgb(").trim_end_matches(')').split(", ");
    let linear = numbers.map(|channel| {
        let channel: f64 = channel.parse::<f64>().unwrap() / 255.0;
        if channel <= 0.04045 { channel / 12.92 } else { ((channel + 0.055) / 1.055).powf(2.4) }
    });
    linear.zip([0.2126, 0.7152, 0.0722]).map(|(channel, weight)| channel * weight).sum()
}

fn contrast(one: &Value, other: &Value) -> f64 {
    let [a, b] = [one, other].map(|colour| luminance(colour.as_str().unwrap()));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

fn browser() -> bool {
    let there = Command::new("chromium").arg("--version").output().is_ok();
    if !there {
        skip("needs chromium: `cargo xtask test --setup`");
    }
    there
}

#[test]
fn every_picture_is_drawn_inside_its_frame_and_can_be_read_in_light_and_dark() {
    if !browser() {
        return;
    }
    let folder = Folder::new();
    let [light, dark] = [1, 0].map(|scheme| draw(&folder, 150, scheme));
    assert_ne!(light["card"], dark["card"], "the page follows the browser's scheme");
    assert!(
        luminance(light["card"].as_str().unwrap()) > 0.8 && luminance(dark["card"].as_str().unwrap()) < 0.05
    );
    for page in [&light, &dark] {
        assert_eq!(page["title"], "Egress gateway report: 150 clients");
        assert_eq!(page["loaded"], 0, "nothing comes from elsewhere");
        assert!(page["width"].as_f64().unwrap() <= WIDTH, "no scrolling sideways");
        assert!(contrast(&page["ink"], &page["card"]) > 7.0);
        for id in ["distribution", "timelines", "leaks", "disruptions"] {
            let picture = &page[id];
            assert!(
                picture["box"][2].as_f64() > Some(800.0) && picture["box"][3].as_f64() > Some(60.0),
                "{id}: {picture:#}"
            );
            assert_eq!(picture["outside"], serde_json::json!([]), "{id} draws beyond its frame");
            assert!(contrast(&picture["ink"], &page["card"]) > 4.5, "{id}: {picture:#}");
            for fill in picture["fills"].as_object().unwrap().keys().filter(|fill| fill.starts_with("rgb(")) {
                let readable = contrast(&Value::from(fill.as_str()), &page["card"]);
                assert!(readable > 1.9, "{id}: {fill} on {} has a contrast of {readable}", page["card"]);
            }
        }
        assert_eq!(page["density"], Value::Null, "150 clients have a row each");
    }
    let leaked = light["timelines"]["fills"]["rgb(213, 94, 0)"].as_u64().unwrap();
    assert!((140..=150).contains(&leaked), "a leaking stretch for each client that saw one: {leaked}");
    let words = light["distribution"]["words"].as_array().unwrap();
    assert!(["p50", "p99", "100 %"].iter().all(|word| words.contains(&Value::from(*word))), "{words:?}");
}

#[test]
fn twenty_thousand_clients_are_drawn_as_one_picture_and_the_worst_rows() {
    if !browser() {
        return;
    }
    let page = draw(&Folder::new(), 20_000, 1);
    assert_eq!(page["title"], "Egress gateway report: 20,000 clients");
    assert!(page["density"]["box"][3].as_f64() > Some(200.0), "{:#}", page["density"]);
    let rows = page["timelines"]["words"].as_array().unwrap();
    let named = rows.iter().filter(|word| word.as_str().unwrap().starts_with("egw-client-")).count();
    assert_eq!(named, 60);
    for id in ["distribution", "timelines", "density", "leaks", "disruptions"] {
        assert!(page[id]["marks"].as_u64().unwrap() < 2_500, "{id}: {}", page[id]["marks"]);
        assert_eq!(page[id]["outside"], serde_json::json!([]), "{id} draws beyond its frame");
    }
}
