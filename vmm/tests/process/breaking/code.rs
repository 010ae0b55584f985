//! A small assembler for guests without an operating system: 32-bit code, flat memory, no stack, ECX counts.

use super::driver::Bus;

/// Instructions, and what the devices are on that they drive.
#[derive(Default)]
pub struct Code(Vec<u8>, Bus);

impl Code {
    /// For devices on `bus`, which they can be reached through from the start.
    pub fn on(bus: Bus) -> Self {
        let mut code = Self(Vec::new(), bus);
        bus.open(&mut code);
        code
    }

    /// What the devices are on.
    pub fn bus(&self) -> Bus {
        self.1
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Appends raw bytes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }

    /// `mov dword [address], value`.
    pub fn w32(&mut self, address: u32, value: u32) -> &mut Self {
        self.raw(&[0xc7, 0x05]).raw(&address.to_le_bytes()).raw(&value.to_le_bytes())
    }

    /// `mov word [address], value`.
    pub fn w16(&mut self, address: u32, value: u16) -> &mut Self {
        self.raw(&[0x66, 0xc7, 0x05]).raw(&address.to_le_bytes()).raw(&value.to_le_bytes())
    }

    /// `mov byte [address], value`.
    pub fn w8(&mut self, address: u32, value: u8) -> &mut Self {
        self.raw(&[0xc6, 0x05]).raw(&address.to_le_bytes()).raw(&[value])
    }

    /// A 64-bit number in two writes.
    pub fn w64(&mut self, address: u32, value: u64) -> &mut Self {
        self.w32(address, value as u32).w32(address + 4, (value >> 32) as u32)
    }

    /// Writes a register, whose name is its address over MMIO.
    pub fn set(&mut self, register: u32, value: u32) -> &mut Self {
        let (address, width) = self.1.place(register, value);
        match width {
            1 => self.w8(address, value as u8),
            2 => self.w16(address, value as u16),
            _ => self.w32(address, value),
        }
    }

    /// A 64-bit register by its halves.
    pub fn set64(&mut self, register: u32, value: u64) -> &mut Self {
        self.set(register, value as u32).set(register + 4, (value >> 32) as u32)
    }

    /// Reads a register.
    pub fn get(&mut self, register: u32) -> &mut Self {
        let (address, _) = self.1.place(register, 0);
        self.r32(address)
    }

    /// `mov eax, [address]`.
    pub fn r32(&mut self, address: u32) -> &mut Self {
        self.raw(&[0xa1]).raw(&address.to_le_bytes())
    }

    /// `add word [address], 1`.
    pub fn increment(&mut self, address: u32) -> &mut Self {
        self.raw(&[0x66, 0x83, 0x05]).raw(&address.to_le_bytes()).raw(&[1])
    }

    /// `out`, a byte.
    pub fn out(&mut self, port: u16, value: u8) -> &mut Self {
        let bytes = crate::common::out(port, value);
        self.raw(&bytes)
    }

    /// `in`, a byte.
    pub fn input(&mut self, port: u16) -> &mut Self {
        let [low, high] = port.to_le_bytes();
        self.raw(&[0x66, 0xba, low, high, 0xec])
    }

    /// `body` this many times; not inside of itself, since there is one counter.
    pub fn times(&mut self, count: u32, body: impl FnOnce(&mut Self)) -> &mut Self {
        self.raw(&[0xb9]).raw(&count.to_le_bytes());
        let start = self.0.len();
        body(self);
        // dec ecx; jnz start
        self.raw(&[0x49, 0x0f, 0x85]);
        let back = start as i64 - (self.0.len() as i64 + 4);
        self.raw(&(back as i32).to_le_bytes())
    }

    /// Spins until the word at `address` is `value`.
    pub fn wait(&mut self, address: u32, value: u16) -> &mut Self {
        // cmp word [address], value; jne to the cmp
        self.raw(&[0x66, 0x81, 0x3d]).raw(&address.to_le_bytes()).raw(&value.to_le_bytes()).raw(&[0x75, 0xf5])
    }

    /// Spins until the word at `address` is the one at `other`.
    pub fn wait_for_copy(&mut self, address: u32, other: u32) -> &mut Self {
        // mov ax, [other]; cmp [address], ax; jne to the cmp
        self.raw(&[0x66, 0xa1]).raw(&other.to_le_bytes());
        self.raw(&[0x66, 0x39, 0x05]).raw(&address.to_le_bytes()).raw(&[0x75, 0xf7])
    }

    /// `body`, and again as long as the byte at `address` is `value` behind it.
    pub fn repeat_while(&mut self, address: u32, value: u8, body: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        body(self);
        // cmp byte [address], value; je start
        self.raw(&[0x80, 0x3d]).raw(&address.to_le_bytes()).raw(&[value, 0x0f, 0x84]);
        let back = start as i64 - (self.0.len() as i64 + 4);
        self.raw(&(back as i32).to_le_bytes())
    }

    /// Spins for ever unless the byte at `address` is `value`.
    pub fn expect(&mut self, address: u32, value: u8) -> &mut Self {
        // cmp byte [address], value; jne to the cmp
        self.raw(&[0x80, 0x3d]).raw(&address.to_le_bytes()).raw(&[value, 0x75, 0xf7])
    }

    /// Powers off.
    pub fn power_off(&mut self) -> &mut Self {
        self.out(0x600, 0x34).hang()
    }

    /// `hlt; jmp` for ever.
    pub fn hang(&mut self) -> &mut Self {
        self.raw(crate::common::HANG)
    }
}
