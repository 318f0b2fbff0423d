//! Binds kfuncs (`extern … __ksym __weak` in C) before aya sees the object, which knows nothing of
//! them until 0.15.
//!
//! Works on the ELF bytes in place, without changing any size: a call gets the kfunc's BTF id, or
//! becomes a call that the verifier refuses if it can be reached; the address of a kfunc
//! (`bpf_ksym_exists`) becomes 1 or 0; the relocations that are done are dropped; and BTF's extern
//! entries become types that aya accepts. docs/adr/0002 says when this file can go.

#![allow(clippy::cast_possible_truncation, reason = "offsets into an object that is in memory")]

use std::{cell::RefCell, collections::HashMap};

use object::{
    Endianness,
    elf::{self, FileHeader64, SectionHeader64},
    pod::bytes_of,
    read::elf::{
        ElfFile64, FileHeader as _, Rel as _, SectionHeader as _, SectionTable, Sym as _, SymbolTable,
    },
};

/// An impossible helper id: a call to it is refused unless it is dead code (as libbpf does).
const MISSING_KFUNC: i32 = 2_002_000_000;
/// `BPF_PSEUDO_KFUNC_CALL`, in the upper half of the register byte.
const PSEUDO_KFUNC_CALL: u8 = 2 << 4;
const OP_CALL: u8 = 0x85;
const OP_LD_IMM64: u8 = 0x18;
/// Where `sh_size` is in a 64-bit section header.
const SH_SIZE_AT: usize = 32;

/// An object whose kfuncs cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum KfuncError {
    /// Not an ELF object, or a damaged one.
    #[error("the BPF object cannot be read: {0}")]
    Elf(#[from] object::Error),
    /// Something that no compiler writes.
    #[error("the BPF object has {0}")]
    Unexpected(&'static str),
}

/// Bytes that replace those at an offset.
struct Patch {
    at: usize,
    bytes: Vec<u8>,
}

/// Binds every kfunc of `object`; `btf_id` gives its id in the running kernel, `None` if it has none.
pub(super) fn bind(object: &mut [u8], btf_id: impl Fn(&str) -> Option<u32>) -> Result<(), KfuncError> {
    // To find one, or that there is none, aya goes through all of the kernel's types.
    let asked = RefCell::new(HashMap::new());
    let btf_id = |name: &str| *asked.borrow_mut().entry(name.to_owned()).or_insert_with(|| btf_id(name));
    for Patch { at, bytes } in patches(object, btf_id)? {
        let place = object.get_mut(at..at + bytes.len());
        place.ok_or(KfuncError::Unexpected("a section behind its end"))?.copy_from_slice(&bytes);
    }
    Ok(())
}

fn patches(object: &[u8], btf_id: impl Fn(&str) -> Option<u32>) -> Result<Vec<Patch>, KfuncError> {
    let file = ElfFile64::<Endianness>::parse(object)?;
    let endian = file.endian();
    let header: &FileHeader64<Endianness> = file.elf_header();
    let sections = header.sections(endian, object)?;
    let symbols = sections.symbols(endian, object, elf::SHT_SYMTAB)?;
    let elf = Elf { object, endian, sections, symbols };
    let mut patches = Vec::new();
    for (index, section) in elf.sections.enumerate() {
        if section.sh_type(endian) == elf::SHT_REL {
            let header_at =
                header.e_shoff(endian) as usize + index.0 * size_of::<SectionHeader64<Endianness>>();
            elf.bind_relocations(section, header_at, &btf_id, &mut patches)?;
        } else if elf.sections.section_name(endian, section)? == b".BTF" {
            btf::rewrite_externs(
                section.data(endian, object)?,
                section.sh_offset(endian) as usize,
                &mut patches,
            )?;
        }
    }
    Ok(patches)
}

struct Elf<'data> {
    object: &'data [u8],
    endian: Endianness,
    sections: SectionTable<'data, FileHeader64<Endianness>>,
    symbols: SymbolTable<'data, FileHeader64<Endianness>>,
}

impl Elf<'_> {
    /// Binds the relocations of one section of code, and drops those that are done.
    fn bind_relocations(
        &self,
        section: &SectionHeader64<Endianness>,
        header_at: usize,
        btf_id: &impl Fn(&str) -> Option<u32>,
        patches: &mut Vec<Patch>,
    ) -> Result<(), KfuncError> {
        let code = self.sections.section(object::SectionIndex(section.sh_info(self.endian) as usize))?;
        if code.sh_flags(self.endian) & u64::from(elf::SHF_EXECINSTR) == 0 {
            return Ok(());
        }
        let Some((relocations, _)) = section.rel(self.endian, self.object)? else { return Ok(()) };
        let mut left = Vec::new();
        for relocation in relocations {
            let Some(symbol) = relocation.symbol(self.endian) else {
                return Err(KfuncError::Unexpected("a relocation without a symbol"));
            };
            let symbol = self.symbols.symbol(symbol)?;
            let name = self.symbols.symbol_name(self.endian, symbol)?;
            if symbol.st_shndx(self.endian) != elf::SHN_UNDEF || name.is_empty() {
                left.extend_from_slice(bytes_of(relocation));
                continue;
            }
            let name =
                str::from_utf8(name).map_err(|_| KfuncError::Unexpected("a symbol that is not text"))?;
            let at = code.sh_offset(self.endian) as usize + relocation.r_offset(self.endian) as usize;
            patches.push(Patch { at, bytes: self.bound_instruction(at, btf_id(name))? });
        }
        if left.len() < size_of_val(relocations) {
            let size = left.len() as u64;
            patches.push(Patch { at: section.sh_offset(self.endian) as usize, bytes: left });
            patches.push(Patch { at: header_at + SH_SIZE_AT, bytes: size.to_le_bytes().to_vec() });
        }
        Ok(())
    }

    /// The instruction at `at` with its kfunc bound.
    fn bound_instruction(&self, at: usize, id: Option<u32>) -> Result<Vec<u8>, KfuncError> {
        let Some(&[opcode, registers]) = self.object.get(at..at + 2) else {
            return Err(KfuncError::Unexpected("a relocation behind its section"));
        };
        match (opcode, id) {
            (OP_CALL, Some(id)) => Ok(instruction(OP_CALL, PSEUDO_KFUNC_CALL, id.cast_signed())),
            (OP_CALL, None) => Ok(instruction(OP_CALL, 0, MISSING_KFUNC)),
            (OP_LD_IMM64, id) => {
                // Two slots; the second holds the upper half of the constant.
                let mut bytes = instruction(OP_LD_IMM64, registers & 0x0f, id.is_some().into());
                bytes.extend_from_slice(&[0; 8]);
                Ok(bytes)
            }
            _ => Err(KfuncError::Unexpected("a kfunc used by neither call nor address")),
        }
    }
}

fn instruction(opcode: u8, registers: u8, immediate: i32) -> Vec<u8> {
    let mut bytes = vec![opcode, registers, 0, 0];
    bytes.extend_from_slice(&immediate.to_le_bytes());
    bytes
}

/// BTF's side of it (Documentation/bpf/btf.rst).
mod btf {
    use super::{KfuncError, Patch};

    const MAGIC: u16 = 0xeb9f;
    const KIND_INT: u32 = 1;
    const KIND_UNION: u32 = 5;
    const KIND_TYPEDEF: u32 = 8;
    const KIND_FUNC: u32 = 12;
    const KIND_DATASEC: u32 = 15;
    /// `vlen` of a FUNC that is declared and not defined.
    const LINKAGE_EXTERN: u32 = 2;

    struct Btf<'data>(&'data [u8]);

    impl Btf<'_> {
        fn u32(&self, at: usize) -> Result<u32, KfuncError> {
            let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
            bytes
                .map(|bytes| u32::from_le_bytes(*bytes))
                .ok_or(KfuncError::Unexpected("a BTF section cut short"))
        }
    }

    /// Extern FUNCs become TYPEDEFs of the same prototype; the DATASEC `.ksyms`, whose size no
    /// section gives, becomes a UNION of as many integers, entry for entry as long.
    pub(super) fn rewrite_externs(
        data: &[u8],
        at: usize,
        patches: &mut Vec<Patch>,
    ) -> Result<(), KfuncError> {
        let btf = Btf(data);
        if btf.u32(0)? & 0xffff != u32::from(MAGIC) {
            return Err(KfuncError::Unexpected("a BTF section of another byte order or format"));
        }
        let header = btf.u32(4)? as usize;
        let (types, types_bytes) = (header + btf.u32(8)? as usize, btf.u32(12)? as usize);
        let strings = header + btf.u32(16)? as usize;
        let (mut offset, mut id, mut integer, mut ksyms) = (types, 0, None, Vec::new());
        while offset < types + types_bytes {
            id += 1;
            let (name, kind_word) = (btf.u32(offset)? as usize, btf.u32(offset + 4)?);
            let (kind, vlen) = (kind_word >> 24 & 0x1f, kind_word & 0xffff);
            match kind {
                KIND_INT if integer.is_none() => integer = Some((id, btf.u32(offset + 8)?)),
                KIND_FUNC if vlen == LINKAGE_EXTERN => {
                    patches.push(Patch {
                        at: at + offset + 4,
                        bytes: (KIND_TYPEDEF << 24).to_le_bytes().to_vec(),
                    });
                }
                KIND_DATASEC
                    if data.get(strings + name..).is_some_and(|name| name.starts_with(b".ksyms\0")) =>
                {
                    ksyms.push((offset, vlen));
                }
                _ => {}
            }
            offset += 12 + trailer_bytes(kind, vlen as usize);
        }
        for (offset, vlen) in ksyms {
            let integer = integer.ok_or(KfuncError::Unexpected("BTF without an integer type"))?;
            patches.push(Patch { at: at + offset, bytes: union_of(integer, vlen) });
        }
        Ok(())
    }

    /// An anonymous UNION with `vlen` members of the integer type `(id, size)`.
    fn union_of((id, size): (u32, u32), vlen: u32) -> Vec<u8> {
        let members = (0..vlen).flat_map(|_| [0, id, 0]);
        [0, KIND_UNION << 24 | vlen, size].into_iter().chain(members).flat_map(u32::to_le_bytes).collect()
    }

    /// What follows the twelve bytes that every type begins with.
    fn trailer_bytes(kind: u32, vlen: usize) -> usize {
        match kind {
            1 | 14 | 17 => 4,             // INT, VAR, DECL_TAG
            3 => 12,                      // ARRAY
            4 | 5 | 15 | 19 => 12 * vlen, // STRUCT, UNION, DATASEC, ENUM64
            6 | 13 => 8 * vlen,           // ENUM, FUNC_PROTO
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use object::{Object as _, ObjectSymbol as _};

    use super::*;

    #[test]
    fn a_bound_object_has_no_relocation_to_a_kfunc_left() {
        let mut bound = cgfleet_ebpf::WALK_OBJECT.to_vec();
        bind(&mut bound, |name| (name == "css_rstat_flush").then_some(4711)).unwrap();
        let calls_kfunc = |object: &[u8], immediate: i32, registers: u8| {
            object.chunks_exact(8).any(|slot| slot == instruction(OP_CALL, registers, immediate))
        };
        assert!(
            calls_kfunc(&bound, 4711, PSEUDO_KFUNC_CALL),
            "the kfunc that the kernel has is called by its id"
        );
        assert!(calls_kfunc(&bound, MISSING_KFUNC, 0), "the other call is refused if reached");
        let file = ElfFile64::<Endianness>::parse(bound.as_slice()).unwrap();
        let left: Vec<_> =
            patches(&bound, |_| None).unwrap().into_iter().filter(|patch| patch.bytes.len() >= 16).collect();
        assert!(left.is_empty(), "nothing is left to bind");
        assert!(file.symbols().any(|symbol| symbol.name() == Ok("walk_locked")));
    }

    #[test]
    fn damaged_objects_are_refused() {
        let whole = cgfleet_ebpf::WALK_OBJECT;
        for length in (0..whole.len()).step_by(997) {
            assert!(bind(&mut whole[..length].to_vec(), |_| None).is_err(), "cut to {length} bytes");
        }
    }
}
