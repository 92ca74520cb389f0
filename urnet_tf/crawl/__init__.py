"""What people have: folders, lists, WebVision trees and their metadata, as one instance table."""
