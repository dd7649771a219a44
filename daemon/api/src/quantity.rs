//! Quantities as Kubernetes writes them.

/// Bytes of a quantity (`10Gi`, `1.5G`, `1e9`, `4096`, `2E`, `100m`), rounded up; `None` if it is none, or more than 64
/// bits.
#[must_use]
pub fn quantity(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{part}").parse().ok()?;
    let (two, ten): (u32, i32) = match unit {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        other => (0, other.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let ten = ten.checked_sub(i32::try_from(part.len()).ok()?)?;
    let scaled = digits.checked_mul(1 << two)?;
    let power = 10_u128.checked_pow(ten.unsigned_abs())?;
    let bytes = if ten < 0 { scaled.div_ceil(power) } else { scaled.checked_mul(power)? };
    u64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let binary = [("4096", 4096), ("10Gi", 10 << 30), ("1.5Gi", 3 << 29), ("2Pi", 2 << 50), ("1Ei", 1 << 60)];
        let decimal = [("1500M", 1_500_000_000), ("2P", 2_000_000_000_000_000), ("1E", 1_000_000_000_000_000_000)];
        let exponents = [("1e9", 1_000_000_000), ("12E3", 12_000), ("1.5e+3", 1500), ("2500e-3", 3), ("1500m", 2)];
        for (text, bytes) in [&binary[..], &decimal, &exponents, &[("0", 0)]].concat() {
            assert_eq!(quantity(text), Some(bytes), "{text}");
        }
        for other in ["", ".", "Gi", "1.2.3", "5X", "1e", "-1", "1e99", "99999999999Ti", "20E"] {
            assert_eq!(quantity(other), None, "{other}");
        }
    }
}
