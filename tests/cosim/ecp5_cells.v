// The ECP5's cells that Yosys' share folder has no behaviour of, as far as Yosys' mapping uses them; for Verilator.
// Sources: Lattice FPGA-TN-02204 (memory), FPGA-TN-02205 (multipliers), FPGA-TN-02200 (PLL).

// The clock comes out of the PLL as it went in, so a bench drives the pin at the core's rate; LOCK rises after some
// cycles, so that the reset is seen.
module EHXPLLL(input CLKI, CLKFB, RST, STDBY, PHASESEL0, PHASESEL1, PHASEDIR, PHASESTEP, PHASELOADREG, PLLWAKESYNC,
               ENCLKOP, output CLKOP, output LOCK);
  parameter CLKI_DIV = 1, CLKFB_DIV = 1, CLKOP_DIV = 8, CLKOP_CPHASE = 0, CLKOP_FPHASE = 0;
  parameter CLKOP_ENABLE = "ENABLED", FEEDBK_PATH = "CLKOP", PLLRST_ENA = "DISABLED";
  parameter OUTDIVIDER_MUXA = "DIVA", OUTDIVIDER_MUXB = "DIVB", OUTDIVIDER_MUXC = "DIVC", OUTDIVIDER_MUXD = "DIVD";
  reg [3:0] count = 0;
  always @(posedge CLKI) if (!LOCK) count <= count + 1;
  assign CLKOP = CLKI;
  assign LOCK = &count;
endmodule

module MULT18X18D(
  input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
  input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
  input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
  input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
  output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0);
  wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
  wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
  wire signed [35:0] wide_a = {{18{SIGNEDA & a[17]}}, a};
  wire signed [35:0] wide_b = {{18{SIGNEDB & b[17]}}, b};
  assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = wide_a * wide_b;
endmodule

// Two ports of 9 or 18 bits each, or one that writes (A) and one that reads (B) 36. Address bits 0 and 1 (0 to 3) are
// byte enables of a port of 18 (36) bits. What a port reads of a word that the other one writes in that cycle is not
// defined: here it is the complement of what was there, so that whoever used it would notice. Contents are the
// netlist's to load.
module DP16KD(
  input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1,
    DIA0,
  input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
  input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
  output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1,
    DOA0,
  input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1,
    DIB0,
  input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
  input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
  output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1,
    DOB0);
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18;
  parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG", RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC";
  parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000", CLKAMUX = "CLKA", CLKBMUX = "CLKB", GSR = "ENABLED";
  parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL";
  reg [8:0] memory [0:2047];  // in units of 9 bits, as wide as what a byte enable writes
  integer i, j;
  initial begin
    if (WRITEMODE_A == "WRITETHROUGH" || WRITEMODE_B == "WRITETHROUGH" || REGMODE_A != "NOREG"
        || REGMODE_B != "NOREG" || CLKAMUX != "CLKA" || CLKBMUX != "CLKB"
        || !((DATA_WIDTH_A == 9 || DATA_WIDTH_A == 18) && (DATA_WIDTH_B == 9 || DATA_WIDTH_B == 18)
             || DATA_WIDTH_A == 36 && DATA_WIDTH_B == 36))
      $fatal(1, "DP16KD: a mode that this model does not have");
  end

  wire [35:0] write_a = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1,
    DIB0, DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2,
    DIA1, DIA0};
  wire [17:0] write_b = write_a[35:18];
  wire [13:0] at_a = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
  wire [13:0] at_b = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
  wire chosen_a = CEA & ~CSA0 & ~CSA1 & ~CSA2, chosen_b = CEB & ~CSB0 & ~CSB1 & ~CSB2;
  wire [3:0] puts_a = {4{chosen_a & WEA}}
    & (DATA_WIDTH_A == 36 ? at_a[3:0] : DATA_WIDTH_A == 18 ? {2'b0, at_a[1:0]} : 4'b1);
  wire [3:0] puts_b = {4{chosen_b & WEB}}
    & (DATA_WIDTH_B == 36 ? 4'b0 : DATA_WIDTH_B == 18 ? {2'b0, at_b[1:0]} : 4'b1);
  // The first unit of a port's word.
  wire [10:0] unit_a = DATA_WIDTH_A == 36 ? {at_a[13:5], 2'b0} : DATA_WIDTH_A == 18 ? {at_a[13:4], 1'b0} : at_a[13:3];
  wire [10:0] unit_b = DATA_WIDTH_B == 36 ? {at_b[13:5], 2'b0} : DATA_WIDTH_B == 18 ? {at_b[13:4], 1'b0} : at_b[13:3];
  reg [35:0] read_a = 0, read_b = 0;
  // How far a unit that one port reads lies above the first that the other one writes.
  reg [10:0] above_a, above_b;
  always @(posedge CLKA) begin
    for (i = 0; i < DATA_WIDTH_A / 9; i = i + 1) begin
      above_a = unit_a + i - unit_b;
      if (chosen_a & (~WEA | WRITEMODE_A == "READBEFOREWRITE"))
        read_a[9 * i +: 9] <= memory[unit_a + i] ^ {9{above_a < DATA_WIDTH_B / 9 && puts_b[above_a[1:0]]}};
      if (puts_a[i]) memory[unit_a + i] <= write_a[9 * i +: 9];
    end
  end
  always @(posedge CLKB) begin
    for (j = 0; j < DATA_WIDTH_B / 9; j = j + 1) begin
      above_b = unit_b + j - unit_a;
      if (chosen_b & (~WEB | WRITEMODE_B == "READBEFOREWRITE"))
        read_b[9 * j +: 9] <= memory[unit_b + j] ^ {9{above_b < DATA_WIDTH_A / 9 && puts_a[above_b[1:0]]}};
      if (puts_b[j]) memory[unit_b + j] <= write_b[9 * j +: 9];
    end
  end
  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1,
    DOA0} = DATA_WIDTH_B == 36 ? read_b[17:0] : read_a[17:0];
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1,
    DOB0} = DATA_WIDTH_B == 36 ? read_b[35:18] : read_b[17:0];
endmodule
