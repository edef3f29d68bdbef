//! As much of a Tracy viewer as counts zones: the handshake of protocol 82, the stream of LZ4 blocks, the queue items
//! of zones, and the farewell.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// Bytes of each queue item on the wire by its number, the number included and what follows strings left out.
const SIZES: [u8; 132] = [
    1, 1, 10, 13, 10, 13, 9, 9, 9, 1, 1, 1, 13, 9, 7, 13, //
    9, 7, 10, 17, 13, 11, 17, 13, 11, 9, 5, 3, 17, 17, 13, 17, //
    17, 17, 5, 27, 27, 21, 21, 27, 27, 21, 21, 21, 21, 24, 24, 16, //
    16, 16, 24, 24, 16, 16, 16, 25, 21, 25, 23, 16, 12, 2, 10, 10, //
    13, 1, 1, 1, 25, 13, 15, 13, 3, 1, 1, 5, 26, 18, 1, 17, //
    5, 4, 9, 17, 17, 17, 13, 32, 22, 13, 17, 17, 20, 17, 20, 28, //
    17, 13, 25, 17, 17, 17, 17, 17, 17, 17, 16, 18, 1, 5, 1, 17, //
    1, 1, 1, 1, 9, 9, 24, 9, 9, 9, 9, 9, 9, 9, 9, 9, //
    9, 9, 9, 9,
];

/// Numbers of the items that matter here.
mod item {
    pub const ZONE: u8 = 7;
    pub const GPU_BEGIN: u8 = 52;
    pub const GPU_END: u8 = 54;
    pub const GPU_TIME: u8 = 60;
    pub const GPU_CONTEXT_NAME: u8 = 61;
    pub const TERMINATE: u8 = 73;
    pub const GPU_CONTEXT: u8 = 95;
    pub const LONG_STRINGS: [u8; 2] = [112, 113];
    pub const SHORT_STRINGS: [u8; 2] = [114, 115];
    /// From here on an item is a pointer that a string follows.
    pub const TRANSFERS: u8 = 119;
    pub const SOURCE: u8 = 122;
    /// Those whose strings may be longer than 64 KiB: an image, code of a symbol, code of a file.
    pub const BLOBS: [u8; 3] = [126, 129, 130];
}

/// Bytes of the welcome, and of what an on-demand client adds.
const WELCOME: usize = 8 * 8 + 1 + 1 + 12 + 4 + 64 + 1024;
const ON_DEMAND: usize = 16;
/// How far back a block may refer.
const WINDOW: usize = 64 << 10;

/// A place in a source file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub name: String,
    pub file: String,
    pub line: u32,
}

/// A pass on the device.
#[derive(Clone, Debug)]
pub struct GpuZone {
    pub place: Place,
    /// In ticks.
    pub begin: i64,
    pub end: i64,
}

/// What a program showed until it ended.
#[derive(Debug, Default)]
pub struct Trace {
    /// Zones of the CPU in the order in which they began.
    pub cpu: Vec<Place>,
    /// Zones of the GPU in the order in which they were sent.
    pub gpu: Vec<GpuZone>,
    /// Names of tracks.
    pub tracks: Vec<String>,
    /// Of each track, whether its clock is corrected.
    pub calibrated: Vec<bool>,
}

/// Says hello with a protocol's number and gives the answer; the program may need a while to listen.
pub fn greet(port: u16, protocol: u32) -> (TcpStream, u8) {
    let start = Instant::now();
    let mut stream = loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => break stream,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(60), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(300)))
        .unwrap();
    stream.write_all(b"TracyPrf").unwrap();
    stream.write_all(&protocol.to_le_bytes()).unwrap();
    let mut status = [0];
    stream.read_exact(&mut status).unwrap();
    (stream, status[0])
}

/// Watches the program at this port until it ends.
pub fn watch(port: u16) -> Trace {
    let (mut stream, status) = greet(port, 82);
    assert_eq!(status, 1, "welcome");
    stream
        .read_exact(&mut [0; WELCOME + ON_DEMAND])
        .expect("a welcome");
    let mut reader = Reader::default();
    let mut history: Vec<u8> = Vec::new();
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size).unwrap();
        let mut packed = vec![0; u32::from_le_bytes(size) as usize];
        stream.read_exact(&mut packed).unwrap();
        let block = lz4_flex::block::decompress_with_dict(&packed, 512 << 10, &history).unwrap();
        reader.items(&block);
        history.extend(&block);
        history.drain(..history.len().saturating_sub(WINDOW));
        if reader.ended {
            // Nothing more is asked for: the query "terminate", a pointer and a number that mean nothing.
            stream.write_all(&[0; 13]).unwrap();
            return reader.trace();
        }
    }
}

#[derive(Default)]
struct Reader {
    trace: Trace,
    /// The source that the next zone has.
    source: Option<Place>,
    string: String,
    /// Zones that began and have not ended: the innermost last.
    begun: Vec<usize>,
    /// Query ids, whether they end a zone, and the zone.
    waiting: BTreeMap<u16, (bool, usize)>,
    clock: i64,
    ended: bool,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

impl Reader {
    fn items(&mut self, mut bytes: &[u8]) {
        while let Some(kind) = bytes.first().copied() {
            let size = usize::from(SIZES[usize::from(kind)]);
            let (head, rest) = bytes.split_at(size);
            let length = match kind {
                kind if item::BLOBS.contains(&kind) => 4,
                kind if kind >= item::TRANSFERS || item::LONG_STRINGS.contains(&kind) => 2,
                kind if item::SHORT_STRINGS.contains(&kind) => 1,
                _ => 0,
            };
            let mut counted = [0; 8];
            counted[..length].copy_from_slice(&rest[..length]);
            let mut counted = u64::from_le_bytes(counted) as usize;
            if item::LONG_STRINGS.contains(&kind) {
                counted += 256; // Shorter ones are sent as short strings.
            }
            let (string, rest) = rest[length..].split_at(counted);
            self.item(kind, head, string);
            bytes = rest;
        }
    }

    fn item(&mut self, kind: u8, head: &[u8], string: &[u8]) {
        match kind {
            item::SOURCE => {
                let line = u32::from_le_bytes(number(string, 4));
                let text = String::from_utf8(string[8..].to_vec()).unwrap();
                let mut parts = text.splitn(3, '\0').skip(1);
                let mut part = || parts.next().unwrap().to_string();
                let (file, name) = (part(), part());
                self.source = Some(Place { name, file, line });
            }
            item::ZONE => self.trace.cpu.push(self.source.take().unwrap()),
            item::GPU_BEGIN => {
                let zone = self.trace.gpu.len();
                self.begun.push(zone);
                self.wait(head, false, zone);
                self.trace.gpu.push(GpuZone {
                    place: self.source.take().unwrap(),
                    begin: i64::MIN,
                    end: i64::MIN,
                });
            }
            item::GPU_END => {
                let zone = self.begun.pop().expect("a zone that began");
                self.wait(head, true, zone);
            }
            item::GPU_TIME => {
                // Each time is told as the distance to the one before.
                self.clock = self.clock.wrapping_add(i64::from_le_bytes(number(head, 1)));
                let id = u16::from_le_bytes(number(head, 9));
                let (end, zone) = self.waiting.remove(&id).expect("a zone that waits");
                let zone = &mut self.trace.gpu[zone];
                *(if end { &mut zone.end } else { &mut zone.begin }) = self.clock;
            }
            item::GPU_CONTEXT => self.trace.calibrated.push(head[head.len() - 2] & 1 == 1),
            item::GPU_CONTEXT_NAME => self.trace.tracks.push(std::mem::take(&mut self.string)),
            item::TERMINATE => self.ended = true,
            kind if item::LONG_STRINGS.contains(&kind) || item::SHORT_STRINGS.contains(&kind) => {
                self.string = String::from_utf8(string.to_vec()).unwrap();
            }
            _ => {}
        }
    }

    /// An id is used for one time only until that time was told.
    fn wait(&mut self, head: &[u8], end: bool, zone: usize) {
        let id = u16::from_le_bytes(number(head, 13));
        let before = self.waiting.insert(id, (end, zone));
        assert_eq!(before, None, "query id {id} is in use");
    }

    fn trace(self) -> Trace {
        assert!(self.begun.is_empty(), "zones that never ended");
        assert!(self.waiting.is_empty(), "zones without times");
        self.trace
    }
}
