//! The real world, on tokio and std::fs.
use super::{ConnId, Event, HostPort, Rng, Time};
use bytes::Bytes;
use std::io;

#[derive(Clone)]
pub struct RealWorld;
impl RealWorld {
    pub fn now(&self) -> Time {
        todo!()
    }
    pub fn wall_clock_ms(&self) -> i64 {
        todo!()
    }
    pub fn rng(&self, _stream: &str) -> Rng {
        todo!()
    }
    pub fn disk(&self) -> RealDisk {
        todo!()
    }
}
pub struct RealEndpoint;
impl RealEndpoint {
    pub fn connect(&mut self, _to: &HostPort) -> ConnId {
        todo!()
    }
    pub fn send(&mut self, _conn: ConnId, _frame: Bytes) {
        todo!()
    }
    pub fn close(&mut self, _conn: ConnId) {
        todo!()
    }
    pub async fn next(&mut self, _deadline: Option<Time>) -> Option<Event> {
        todo!()
    }
}
#[derive(Clone)]
pub struct RealDisk;
impl RealDisk {
    pub fn open(&self, _path: &str) -> io::Result<RealFile> {
        todo!()
    }
    pub fn create(&self, _path: &str) -> io::Result<RealFile> {
        todo!()
    }
    pub fn exists(&self, _path: &str) -> bool {
        todo!()
    }
    pub fn create_dir_all(&self, _path: &str) -> io::Result<()> {
        todo!()
    }
    pub fn read_dir(&self, _path: &str) -> io::Result<Vec<String>> {
        todo!()
    }
    pub fn remove_file(&self, _path: &str) -> io::Result<()> {
        todo!()
    }
    pub fn remove_dir_all(&self, _path: &str) -> io::Result<()> {
        todo!()
    }
    pub fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        todo!()
    }
    pub fn sync_dir(&self, _path: &str) -> io::Result<()> {
        todo!()
    }
}
pub struct RealFile;
impl RealFile {
    pub fn len(&self) -> u64 {
        todo!()
    }
    pub fn read_at(&self, _position: u64, _bytes_max: usize) -> io::Result<Bytes> {
        todo!()
    }
    pub fn append(&mut self, _data: &[u8]) -> io::Result<u64> {
        todo!()
    }
    pub fn write_at(&mut self, _position: u64, _data: &[u8]) -> io::Result<()> {
        todo!()
    }
    pub fn truncate(&mut self, _len: u64) -> io::Result<()> {
        todo!()
    }
    pub fn sync(&mut self) -> io::Result<()> {
        todo!()
    }
}
