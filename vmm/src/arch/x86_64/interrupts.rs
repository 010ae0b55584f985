//! How numbered interrupts reach the processors: pins of the IOAPIC, and messages.

use super::layout;
use crate::pci::Message;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1 as Target, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
    kvm_irq_routing_msi__bindgen_ty_1 as MsiExtra,
};

/// The pins: what KVM starts with, without the PIC that this machine does not have. A new routing table replaces the old one as a
/// whole, so they are part of each.
pub fn pin_routes() -> impl Iterator<Item = kvm_irq_routing_entry> {
    (0..layout::FIRST_MESSAGE_GSI).map(|pin| kvm_irq_routing_entry {
        gsi: pin,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: Target { irqchip: kvm_irq_routing_irqchip { irqchip: KVM_IRQCHIP_IOAPIC, pin } },
        ..Default::default()
    })
}

/// A message.
pub fn message_route(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        __bindgen_anon_1: MsiExtra::default(),
    };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, u: Target { msi }, ..Default::default() }
}
