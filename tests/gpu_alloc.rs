//! A forward does not touch the host's heap: a counting allocator watches one thread while it runs forwards. Alone
//! in its binary, because the allocator is the process's.
#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, unsafe_code)]

#[allow(dead_code)] // Some plans are for other binaries.
#[path = "gpu/plans.rs"]
mod plans;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use graphc::run::{Session, SessionOptions};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator; counting in a const thread-local allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() -> u64 {
    COUNT.with(Cell::get)
}

fn forward(session: &mut Session) -> f32 {
    let entry = session.entry("n=64").unwrap();
    let mut slot = session.begin(entry).unwrap();
    slot.input::<f32>("x").unwrap().fill(1.0);
    let ticket = slot.submit().unwrap();
    session.wait(ticket).unwrap().tensor::<f32>("z").unwrap()[0]
}

#[test]
fn a_forward_allocates_nothing_on_the_host() {
    let plan = Arc::new(plans::chain());
    let before = count();
    let mut session = Session::open(
        SessionOptions::default(),
        plan,
        &mut plans::fill,
        &mut |_| {},
    )
    .unwrap();
    assert!(count() > before + 10, "the counter does not count");
    let first = forward(&mut session);
    let before = count();
    let mut last = first;
    for _ in 0..10 {
        last = forward(&mut session);
    }
    assert_eq!(count(), before);
    // The state counts the forwards, so they did run: z = y + 1000 s + c with c growing by y = 3.
    assert_eq!(last - first, 10.0 * 1003.0);
}
