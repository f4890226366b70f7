// A board's pins before synthesis, for simulation; and after it.
module IB(input I, output O); assign O = I; endmodule
module OB(input I, output O); assign O = I; endmodule
module OBZ(input I, input T, output O); assign O = I; endmodule
module PIN_IN(input B, output O); parameter DIR = "INPUT"; assign O = B; endmodule
module PIN_OUT(output B, input I, T); parameter DIR = "OUTPUT"; assign B = I; endmodule
