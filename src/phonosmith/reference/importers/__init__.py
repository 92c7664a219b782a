"""Import of finished calculations: VASP trees and archives, atomate2 documents, extended XYZ, phonopy files."""
