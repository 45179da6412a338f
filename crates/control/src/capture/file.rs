//! The file of a capture: pcapng (draft-ietf-opsawg-pcapng), one block for each frame as it was received and one as it was sent.
//!
//! The blocks are `pcap-file`'s. They are written big endian: in little endian it writes the two halves of the stamps of statistics blocks
//! the wrong way round (version 2.0.0). Stamps of packets are in nanoseconds whatever the interface says, so the interfaces say that.

use super::{CaptureRequest, at};
use crate::controller::Controller;
use crate::status;
use model::api::CaptureFigures;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{Block, PcapNgWriter};
use pcap_file::{DataLink, Endianness};
use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wire::{PortId, ServiceId};
use worker::capture::{CaptureEnd, CapturedFrame, Side};

/// Stamps are in units of 10^-9 s.
const NANOSECONDS: u8 = 9;

/// A port, seen from one side.
struct CaptureInterface {
    port: PortId,
    side: Side,
    /// `data0:rx`.
    name: String,
    /// Blocks of it.
    blocks: u64,
}

/// What has been written and not been taken yet, and what is known of the rest.
pub(super) struct File {
    writer: PcapNgWriter<Vec<u8>>,
    interfaces: Vec<CaptureInterface>,
    /// The moment at which the workers' clock was 0, since 1970.
    tick_zero: Duration,
}

impl File {
    /// With its head.
    pub(super) fn new(
        controller: &Controller,
        wanted: &CaptureRequest,
        tick_zero: Duration,
    ) -> Result<File, String> {
        let section = SectionHeaderBlock {
            endianness: Endianness::Big,
            options: vec![
                SectionHeaderOption::Comment(format!("capture of {wanted}").into()),
                SectionHeaderOption::UserApplication(
                    format!("guidewayd {}", controller.program.version).into(),
                ),
            ],
            ..SectionHeaderBlock::default()
        };
        let cannot = |error: pcap_file::PcapError| format!("the capture's file cannot be begun: {error}");
        let writer = PcapNgWriter::with_section_header(Vec::new(), section).map_err(cannot)?;
        let mut file = File { writer, interfaces: Vec::new(), tick_zero };
        for port in &controller.ports {
            let kernel = port.exception.iter().map(|(id, name)| (*id, name));
            for (port, name) in std::iter::once((port.id, &port.name)).chain(kernel) {
                for (side, word) in [(Side::Received, "rx"), (Side::Sent, "tx")] {
                    file.interfaces.push(CaptureInterface {
                        port,
                        side,
                        name: format!("{name}:{word}"),
                        blocks: 0,
                    });
                }
            }
        }
        for CaptureInterface { name, .. } in &file.interfaces {
            let block = InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: wanted.snap,
                options: vec![
                    InterfaceDescriptionOption::IfName(name.as_str().into()),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ],
            };
            file.writer.write_block(&Block::InterfaceDescription(block)).map_err(cannot)?;
        }
        Ok(file)
    }

    pub(super) fn interfaces(&self) -> Vec<String> {
        self.interfaces.iter().map(|interface| interface.name.clone()).collect()
    }

    /// Blocks written.
    pub(super) fn blocks(&self) -> u64 {
        self.interfaces.iter().map(|interface| interface.blocks).sum()
    }

    /// Bytes that were not taken yet.
    pub(super) fn len(&self) -> usize {
        self.writer.get_ref().len()
    }

    /// What was written since the last time.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.get_mut())
    }

    pub(super) fn write(&mut self, copy: &CapturedFrame, comment: &str) {
        let of_copy = |of: &CaptureInterface| of.port == copy.port && of.side == copy.side;
        // All ports are there from the start.
        let Some(number) = self.interfaces.iter().position(of_copy) else { return };
        let block = Block::EnhancedPacket(EnhancedPacketBlock {
            interface_id: u32::try_from(number).unwrap_or(u32::MAX),
            timestamp: at(self.tick_zero, copy.at),
            original_len: u32::try_from(copy.len).unwrap_or(u32::MAX),
            data: Cow::Borrowed(copy.bytes()),
            options: vec![EnhancedPacketOption::Comment(comment.into())],
        });
        // Memory takes everything.
        if self.writer.write_block(&block).is_ok()
            && let Some(interface) = self.interfaces.get_mut(number)
        {
            interface.blocks += 1;
        }
    }

    /// Statistics of the interfaces; what was missed was missed by all of them together, and stands with the first one.
    pub(super) fn finish(&mut self, figures: &CaptureFigures) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let CaptureFigures { frames, blocks, missed } = figures;
        let comment =
            format!("frames captured: {frames}, blocks: {blocks}, frames missed (all interfaces): {missed}");
        for (number, interface) in self.interfaces.iter().enumerate() {
            let mut options = vec![InterfaceStatisticsOption::IsbUsrDeliv(interface.blocks)];
            if number == 0 {
                options.push(InterfaceStatisticsOption::IsbOsDrop(*missed));
                options.push(InterfaceStatisticsOption::Comment(comment.as_str().into()));
            }
            let block = Block::InterfaceStatistics(InterfaceStatisticsBlock {
                interface_id: u32::try_from(number).unwrap_or(u32::MAX),
                timestamp: u64::try_from(now).unwrap_or(u64::MAX),
                options,
            });
            let written = self.writer.write_block(&block);
            debug_assert!(written.is_ok(), "memory takes everything");
        }
    }
}

/// What stands beside frames; by the names in force.
pub(super) struct Comments<'t> {
    controller: &'t Controller,
    /// Of services that were met.
    services: HashMap<ServiceId, String>,
    last: Option<CaptureEnd>,
    text: String,
}

impl<'t> Comments<'t> {
    pub(super) fn of(controller: &'t Controller) -> Comments<'t> {
        Comments { controller, services: HashMap::new(), last: None, text: String::new() }
    }

    /// `action=encapsulate service=web backend=b1`.
    pub(super) fn of_end(&mut self, end: &CaptureEnd) -> &str {
        if self.last.as_ref() != Some(end) {
            self.last = Some(*end);
            self.text = format!("action={}", end.action);
            if let Some(reason) = end.reason {
                self.text += &format!(" reason={}", reason.name());
            }
            if let Some(id) = end.service {
                let controller = self.controller;
                let service = self.services.entry(id).or_insert_with(|| service_named(controller, id));
                self.text += &format!(" service={service}");
            }
            if let Some(id) = end.backend {
                self.text += &format!(" backend={}", status::backend_named(self.controller, id).0);
            }
        }
        &self.text
    }
}

/// A service's name, as far as it is known. O(services).
fn service_named(controller: &Controller, id: ServiceId) -> String {
    let configured = controller.config.services.iter();
    let departed = controller.backends.departed.iter().map(|departed| &departed.service);
    let found =
        configured.chain(departed).find(|service| controller.backends.ids.identified(service) == Some(id));
    found.map_or_else(|| format!("#{}", id.0), |service| service.name.clone())
}
