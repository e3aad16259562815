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
    const marks = [...svg.querySelectorAll('rect:not(.tip),polygon,polyline,line,text')];
    const outer = svg.getBoundingClientRect();
    const outside = marks.filter((mark) => { const b = mark.getBoundingClientRect();
      return b.right > outer.right + 1 || b.left < outer.left - 1 || b.bottom > outer.bottom + 1 || b.top < outer.top - 1; });
    const fills = {};
    for (const mark of svg.querySelectorAll('rect:not(.tip),polygon')) {
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
  found.unreachable = [...document.querySelectorAll('*')].filter((e) => e.scrollWidth > e.clientWidth + 1 &&
    ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).map((e) => e.outerHTML.slice(0, 200));
  found.nameless = [...document.querySelectorAll('thead th')].filter((th) => !th.textContent.trim()).length;
  found.tips = document.querySelectorAll('.tip title').length;
  found.told = [...document.querySelectorAll('.picture')].map((picture) => picture.getAttribute('aria-label'));
  const table = document.getElementById('clients');
  const listed = () => [...table.querySelectorAll('tbody tr')].map((tr) => [...tr.children].map((cell) => cell.textContent));
  const search = (word) => { const input = table.querySelector('input'); input.value = word; input.dispatchEvent(new Event('input')); };
  found.listed = listed().length; found.status = table.querySelector('[role=status]').textContent;
  table.querySelectorAll('thead button')[4].click();
  const place = [...table.querySelectorAll('thead th')].filter((th) => !th.hidden).findIndex((th) => th.textContent.startsWith('leaked'));
  found.sorted = listed().map((row) => Number(row[place].replaceAll(',', '')));
  search('000007'); found.found = listed(); search('');
  for (const id of ['quantiles', 'differences', 'sample', 'distribution', 'timelines', 'density', 'leaks', 'disruptions']) found[id] = picture(id);
  const out = document.createElement('pre'); out.id = 'measured'; out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>";

const WIDTH: f64 = 1120.0;

/// What the browser has drawn of a page of so many clients, so wide. `scheme` is 1 for light and 0 for dark.
fn draw(folder: &Folder, clients: usize, scheme: u8, width: f64) -> Value {
    let results: String = (synthetic::Clients::new(4).take(clients))
        .map(|(_, document)| serde_json::to_string(&document).unwrap() + "\n")
        .collect();
    let results = folder.write("run.jsonl", &results);
    let page = format!("{}/page.html", folder.path());
    let compare = ["--compare", &results, "--max-failed=1000", "--equivalent-within=10s"];
    let reported = report(&[&[results.as_str(), "--html", &page], &compare[..]].concat());
    assert_eq!(reported.status.code(), Some(0), "{}", String::from_utf8_lossy(&reported.stdout));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(!html.contains("http-equiv=\"refresh\""));
    // The page lets no script run but its own, so the measuring one gets its nonce.
    let (_, rest) = html.split_once("script-src 'nonce-").unwrap();
    let nonce = rest.split_once('\'').unwrap().0;
    let measure = MEASURE.replace("<script>", &format!("<script nonce=\"{nonce}\">"));
    let measured = html.replace("</body>", &format!("{measure}</body>"));
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
            format!("--user-data-dir={}/profile-{clients}-{scheme}-{width}", folder.path()),
            format!("--blink-settings=preferredColorScheme={scheme}"),
            format!("--window-size={width},900"),
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
    let [light, dark] = [1, 0].map(|scheme| draw(&folder, 150, scheme, WIDTH));
    assert_ne!(light["card"], dark["card"], "the page follows the browser's scheme");
    assert!(
        luminance(light["card"].as_str().unwrap()) > 0.8 && luminance(dark["card"].as_str().unwrap()) < 0.05
    );
    for page in [&light, &dark] {
        assert_eq!(page["title"], "PASSED: Egress gateway report: 150 clients");
        assert_eq!(page["loaded"], 0, "nothing comes from elsewhere");
        assert!(page["width"].as_f64().unwrap() <= WIDTH, "no scrolling sideways");
        assert!(contrast(&page["ink"], &page["card"]) > 7.0);
        for id in ["quantiles", "distribution", "differences", "timelines", "leaks", "disruptions"] {
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
    assert!(leaked >= 140, "a mark at least for each client that leaked: {leaked}");
    let words = |id: &str| light[id]["words"].as_array().unwrap().clone();
    assert!(words("distribution").contains(&"100 %".into()), "{:?}", words("distribution"));
    for of in ["quantiles", "differences"] {
        assert!(["p50", "p99"].iter().all(|word| words(of).contains(&Value::from(*word))), "{:?}", words(of));
    }
    let heard: Vec<&str> =
        light["told"].as_array().unwrap().iter().map(|told| told.as_str().unwrap()).collect();
    assert!(heard.iter().any(|told| told.starts_with("p50 ") && told.contains(" ms; p90 ")), "{heard:?}");
    assert!(light["tips"].as_u64() > Some(150), "{}", light["tips"]);
}

#[test]
fn on_a_phone_nothing_is_cut_off_or_out_of_reach_of_keys() {
    if !browser() {
        return;
    }
    let folder = Folder::new();
    for width in [500.0, WIDTH] {
        let page = draw(&folder, 20, 1, width);
        assert!(page["width"].as_f64() <= Some(width), "{width}: scrolls sideways: {}", page["width"]);
        assert_eq!(page["unreachable"], serde_json::json!([]), "{width}");
        assert_eq!(page["nameless"], 0, "{width}: columns without a name");
    }
}

#[test]
fn the_table_of_clients_is_searched_and_sorted_without_a_network() {
    if !browser() {
        return;
    }
    let page = draw(&Folder::new(), 20, 1, WIDTH);
    assert_eq!((page["listed"].as_u64(), &page["status"]), (Some(20), &"20 found".into()));
    let leaks: Vec<u64> =
        page["sorted"].as_array().unwrap().iter().map(|leaked| leaked.as_u64().unwrap()).collect();
    assert!(leaks.len() == 20 && leaks.is_sorted_by(|a, b| a >= b) && leaks[0] > 20, "{leaks:?}");
    let found = page["found"].as_array().unwrap();
    assert!(found.len() == 1 && found[0][0] == "egw-client-000007", "{found:?}");
    assert_eq!(page["loaded"], 0);
}

#[test]
fn twenty_thousand_clients_are_drawn_as_one_picture_and_the_worst_rows() {
    if !browser() {
        return;
    }
    let page = draw(&Folder::new(), 20_000, 1, WIDTH);
    assert_eq!(page["title"], "PASSED: Egress gateway report: 20,000 clients");
    assert!(page["density"]["box"][3].as_f64() > Some(200.0), "{:#}", page["density"]);
    let rows = page["timelines"]["words"].as_array().unwrap();
    let named = rows.iter().filter(|word| word.as_str().unwrap().starts_with("egw-client-")).count();
    assert_eq!(named, 40);
    let drawn = page["sample"]["words"].as_array().unwrap();
    assert!(drawn.iter().filter(|word| word.as_str().unwrap().starts_with("egw-client-")).count() > 30);
    assert_eq!(
        (page["listed"].as_u64(), &page["status"]),
        (Some(200), &"5,000 found, the first 200 shown".into())
    );
    for id in ["quantiles", "sample", "distribution", "timelines", "density", "leaks", "disruptions"] {
        assert!(page[id]["marks"].as_u64().unwrap() < 2_500, "{id}: {}", page[id]["marks"]);
        assert_eq!(page[id]["outside"], serde_json::json!([]), "{id} draws beyond its frame");
    }
}
